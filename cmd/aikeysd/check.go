package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/impl/telemetry/tracing"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/database"
	"github.com/agentrouter/aikeys/sealer"
)

func (p *program) checkCommand() *cobra.Command {
	cfg := newConfig()
	var options checkOptions
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Check settings, database, schema, keyset, keys and issuer",
		GroupID: groupOperate,
		Args:    cli.NoArguments(),
		Long: `Checks that the settings are valid, that the database answers and its schema is current, that the keyset opens this
database, and that the OpenID Connect issuer, if there is one, can be read. It makes no database and no keyset, and can
run while the service does.

For each key-encryption key (KEK), it shows the state (primary, enabled, retired, or unknown to the sealer) and counts
the keys under it as "current", as "old_kek" ("aikeysd rewrap" puts these under the primary KEK), or as "unreadable".
The counts come from the keys' rows. With --deep, it tries to unwrap each data key, and lists the keys that can't be
read. It opens no secret unless --sealer-old is given, so it does not find a changed ciphertext. With --keys, it lists a
project's keys and how each is sealed, and the system trail records that. With secrets-svc, it needs the rights "open"
and "status", and for --deep also "rewrap". With --role public, it needs only "seal", and checks that secrets-svc seals
with the database's keyset.

"not yet" means that the first start of "aikeysd serve" will make it: a SQLite database, or a keyset for a database
that has none. If you expected it to exist, check its path.

Exits with 1 if a check fails, or a key can't be read.`,
		Example: `  aikeysd check
  aikeysd check --deep
  aikeysd check --keys --customer acme --project chat -o json
  aikeysd check --database-url postgres://aikeys@db.internal/aikeys --sealer local:/etc/aikeys/keyset.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(options.check(), cfg.loadToServe(p.Environ)); err != nil {
				return err
			}
			if (options.deep || options.keys) && cfg.Role == rolePublic {
				return cli.Usagef("--deep and --keys: need rights that the role %s lacks; add --role %s", rolePublic, roleDataplane)
			}
			return p.check(cmd.Context(), cfg, options)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&options.deep, "deep", false, "try each envelope, and list the keys that can't be read")
	flags.BoolVar(&options.keys, "keys", false, "list the keys of a project, and how each is sealed")
	flags.StringVar(&options.customer, "customer", "", "customer that the project belongs to, for --keys")
	flags.StringVar(&options.project, "project", "", "project, for --keys")
	flags.StringVarP(&options.output, "output", "o", outputTable, "form of the output: table or json")
	cfg.AddFlags(cmd.Flags())
	return cmd
}

// The forms of check's output.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// checkOptions are the flags of "aikeysd check" that are not settings of the service.
type checkOptions struct {
	deep, keys        bool
	customer, project string
	output            string
}

func (o *checkOptions) check() error {
	ids := []identifier{{"--customer", &o.customer, o.keys}, {"--project", &o.project, o.keys}}
	err := checkIDs(ids)
	if !o.keys && o.customer+o.project != "" {
		err = errors.Join(err, cli.Usagef("--customer and --project: are for --keys"))
	}
	if o.output != outputTable && o.output != outputJSON {
		err = errors.Join(err, cli.Usagef("--output: must be %s or %s", outputTable, outputJSON))
	}
	return err
}

// checkResult is the result of one check.
type checkResult struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// checkReport is the whole output. It holds the ids and states of keys, never envelopes.
type checkReport struct {
	Checks []checkResult `json:"checks"`
	sealReport
}

var (
	errChecks = errors.New("a check failed; see the table")
	// errNotYet and errSkipped are not failures. errNotYet says that serve will create what is missing. errSkipped says
	// that an earlier check did not find what this check needs.
	errNotYet  = errors.New("is not there yet: serve will make it")
	errSkipped = errors.New("not checked: see above")
	// errNotItsRole says that the role has no right to what the check needs.
	errNotItsRole = errors.New("not checked: the role " + rolePublic + " may only seal")
)

func (p *program) check(ctx context.Context, cfg *config, options checkOptions) error {
	c := &checker{program: p, cfg: cfg, options: options}
	defer func() { _ = c.closers.Close() }() // nothing was written
	var report checkReport
	failed := false
	for _, step := range []struct {
		name string
		run  func(context.Context) (detail string, err error)
	}{
		{"settings", c.settings}, {"database", c.database}, {"schema", c.schema}, {"keyset", c.keyset}, {"keys", c.keys},
		{"issuer", c.issuer},
	} {
		detail, err := step.run(ctx)
		result := "ok"
		switch {
		case errors.Is(err, errNotYet):
			result, detail = "not yet", err.Error()
		case errors.Is(err, errSkipped), errors.Is(err, errNotItsRole):
			result, detail = "-", err.Error()
		case err != nil:
			result, detail, failed = "FAILED", cli.OneLine(err.Error()), true
		}
		report.Checks = append(report.Checks, checkResult{step.name, result, detail})
	}
	report.sealReport = c.seals
	if err := report.print(p, options); err != nil {
		return err
	}
	if failed {
		return errChecks
	}
	return nil
}

// checker holds the results that later checks need from earlier checks.
type checker struct {
	*program
	cfg       *config
	options   checkOptions
	seals     sealReport    // what the keys are sealed with
	store     *models.Store // nil unless the database answers
	isMissing bool          // whether serve will make the database
	isCurrent bool          // whether its schema is current
	sealer    sealer.Sealer // nil unless the keyset is the database's
	closers   lifecycle.Closers
}

// settings checks tracing's variables, OTEL_*. The program's own settings have been checked before, when they were
// loaded.
func (c *checker) settings(context.Context) (string, error) {
	if _, err := tracing.Endpoint(c.Getenv); err != nil {
		return "", err
	}
	var serves string
	if c.cfg.servesPublic() {
		serves = "public API on " + c.cfg.Listen + ", "
	}
	if c.cfg.servesDataPlanes() {
		serves += "data-plane API on " + c.cfg.DataplaneListen + ", "
	}
	return serves + "ops on " + c.cfg.OpsListen, nil
}

func (c *checker) database(ctx context.Context) (_ string, err error) {
	name := databaseName(c.cfg.DatabaseURL)
	if c.isMissing, err = databaseMissing(c.cfg.DatabaseURL); err != nil {
		return "", err
	}
	if c.isMissing {
		return "", fmt.Errorf("%s %w", name, errNotYet)
	}
	options := c.cfg.storeOptions()
	options.Process = models.Process{Operator: cli.Operator(c.Getenv), Command: "aikeysd check"}
	store, err := database.Open(c.cfg.DatabaseURL, options)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := store.Ping(ctx); err != nil {
		return "", errors.Join(unreachable(c.cfg, err), store.Close())
	}
	c.store = store
	c.closers.Add(store.Close)
	return fmt.Sprintf("%s answers, in %s", name, time.Since(began).Round(time.Microsecond)), nil
}

func (c *checker) schema(ctx context.Context) (string, error) {
	if c.store == nil {
		return "", errSkipped
	}
	steps, err := c.store.Migrations(ctx)
	if err != nil {
		return "", err
	}
	if pending := pendingOf(steps); pending > 0 {
		return "", fmt.Errorf("%w: it lacks %s; run: aikeysd migrate up%s", errPending, migrations(pending), c.cfg.databaseFlags())
	}
	c.isCurrent = true
	return "current, with " + migrations(len(steps)), nil
}

func (c *checker) keyset(ctx context.Context) (string, error) {
	if !c.isCurrent && !c.isMissing {
		return "", errSkipped
	}
	bound, err := c.isBound(ctx)
	if err != nil {
		return "", err
	}
	if err := c.requireKeysetFile(bound); err != nil {
		return "", err
	}
	opened, err := c.cfg.openSealer(slog.New(slog.DiscardHandler), &c.closers)
	if err != nil {
		return "", err
	}
	switch {
	case bound:
		err = keysetcheck.New(c.store, opened, c.cfg.keysetUse()).Check(ctx)
	case c.cfg.Role == rolePublic:
		err = keysetcheck.TrySeal(ctx, opened)
	default:
		_, err = opened.PrimaryKEK(ctx)
	}
	if err != nil {
		return "", unreachableSealer(c.cfg, err)
	}
	c.sealer = opened
	switch {
	case !bound:
		return c.cfg.sealerName() + " is valid; the database is bound to no keyset yet, the first start of serve binds it", nil
	case c.cfg.Role == rolePublic:
		return c.cfg.sealerName() + " seals with this database's keyset", nil
	}
	return c.cfg.sealerName() + " opens this database", nil
}

// requireKeysetFile returns an error if the keyset file of a local sealer is missing. It must run before the sealer is
// opened, because opening the sealer would create the file.
func (c *checker) requireKeysetFile(bound bool) error {
	path, isFile := c.cfg.keysetPath()
	if !isFile {
		return nil
	}
	switch missing, err := fileMissing(path); {
	case err != nil:
		return fmt.Errorf("keyset: %w", err)
	case missing && bound && len(c.cfg.SealerOld) == 0:
		return fmt.Errorf("there is no keyset at %s, and the database is bound to one: put that keyset there, or its backup", absolute(path))
	case missing:
		return fmt.Errorf("%s %w", absolute(path), errNotYet)
	}
	return nil
}

// isBound reports whether the database is bound to a keyset. It reads the canary from the store, because
// keysetcheck.Checker would create a missing canary.
func (c *checker) isBound(ctx context.Context) (bool, error) {
	if c.isMissing {
		return false, nil
	}
	_, err := c.store.Canary(ctx)
	if errors.Is(err, models.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// keys counts the keys that are sealed under each KEK. It returns an error if any key can't be read.
func (c *checker) keys(ctx context.Context) (string, error) {
	if c.sealer == nil || !c.isCurrent {
		return "", errSkipped
	}
	if c.cfg.Role == rolePublic {
		return "", errNotItsRole
	}
	inspector, err := rewrap.NewInspector(ctx, c.store, c.sealer)
	if err != nil {
		return "", unreachableSealer(c.cfg, err)
	}
	var keks []rewrap.KEKKeys
	var unreadable []rewrap.Unreadable
	if c.options.deep {
		keks, unreadable, err = inspector.Sample(ctx, 0)
	} else {
		keks, err = inspector.Count(ctx)
	}
	if err != nil {
		return "", unreachableSealer(c.cfg, err)
	}
	c.seals = sealReport{KEKs: keks, Unreadable: unreadable}
	if c.options.keys {
		if c.seals.Keys, err = c.listKeys(ctx, inspector); err != nil {
			return "", unreachableSealer(c.cfg, err)
		}
	}
	var current, other, lost int64
	for _, kek := range keks {
		current, other, lost = current+kek.Current, other+kek.All()-kek.Current, lost+kek.Unreadable
	}
	if lost > 0 {
		which := ", according to their rows; aikeysd check --deep lists them"
		if c.options.deep {
			which = "; they are listed below"
		}
		return "", fmt.Errorf("%s of %d can't be read%s", formatKeys(lost), current+other, which)
	}
	return fmt.Sprintf("%d sealed with the current key-encryption key (%s), %d with others", current, inspector.Primary(), other), nil
}

// keysPage is how many keys are read, and tried, at a time.
const keysPage = 100

func (c *checker) listKeys(ctx context.Context, inspector *rewrap.Inspector) ([]keyReport, error) {
	err := c.store.RecordSystemEvent(ctx, models.SystemEvent{
		Type: models.EventProjectRead, CustomerID: c.options.customer, ProjectID: c.options.project,
	})
	if err != nil {
		return nil, err
	}
	reports := []keyReport{}
	for after := ""; ; {
		page, err := c.store.SealedKeysOf(ctx, c.options.customer, c.options.project, after, keysPage)
		if err != nil {
			return nil, err
		}
		seals := make([]rewrap.EnvelopeStatus, len(page))
		if c.options.deep {
			if seals, err = inspector.Check(ctx, page); err != nil {
				return nil, err
			}
		}
		for i, k := range page {
			if !c.options.deep {
				seals[i] = inspector.Classify(k)
			}
			reports = append(reports, newKeyReport(k, seals[i]))
		}
		if len(page) < keysPage {
			return reports, nil
		}
		after = page[len(page)-1].ID
	}
}

func (c *checker) issuer(ctx context.Context) (string, error) {
	issuer, err := c.cfg.oidc()
	if err != nil {
		return "", err
	}
	if issuer == nil {
		return "none is configured: API keys alone open sessions", nil
	}
	if err := issuer.Probe(ctx); err != nil {
		return "", err
	}
	if issuer.SignIn() == nil {
		return c.cfg.OIDCIssuer + " answers", nil
	}
	hasDeviceFlow, err := issuer.ProbeSignIn(ctx)
	if err != nil {
		return "", err
	}
	flows := "in a browser and by device code"
	if !hasDeviceFlow {
		flows = "in a browser only: there is no device flow"
	}
	return c.cfg.OIDCIssuer + " answers; sign-in works " + flows, nil
}

// print prints the checks and, if it is known, how the keys are sealed.
func (r checkReport) print(p *program, options checkOptions) error {
	if options.output == outputJSON {
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		return p.Say("%s", text)
	}
	table := p.NewTable("CHECK", "RESULT", "DETAIL")
	for _, check := range r.Checks {
		table.Row(check.Check, check.Result, check.Detail)
	}
	if err := table.Flush(); err != nil || r.KEKs == nil {
		return err
	}
	return r.sealReport.print(p, options.keys)
}

// sealReport says how keys are sealed. KEKs is nil if the program could not find out how they are sealed. The other
// lists are nil unless the user asked for them.
type sealReport struct {
	KEKs       []rewrap.KEKKeys    `json:"keks"`
	Unreadable []rewrap.Unreadable `json:"unreadable,omitempty"`
	Keys       []keyReport         `json:"keys,omitempty"`
}

type keyReport struct {
	ID        string `json:"id"`
	UserScope string `json:"user_scope,omitempty"`
	Provider  string `json:"provider"`
	Name      string `json:"name"`
	State     string `json:"state"`
	SealState string `json:"seal_state"`
	KEKID     string `json:"kek_id"`
	Reason    string `json:"reason,omitempty"`
	// Version is left out for a key's first version. A rotated key has a report for each version that has an envelope.
	Version uint32 `json:"version,omitempty"`
}

func newKeyReport(k models.Key, seal rewrap.EnvelopeStatus) keyReport {
	state := models.KeyActive
	if k.RevokedAt != 0 {
		state = models.KeyRevoked
	}
	number := k.Version
	if number == 1 {
		number = 0
	}
	return keyReport{ID: k.ID, Version: number, UserScope: k.UserID, Provider: k.Provider, Name: k.Name, State: string(state),
		SealState: string(seal.State), KEKID: seal.KEKID, Reason: seal.Reason()}
}

// print prints a table of the KEKs. If some keys can't be read, it prints a table of those keys next. If the user asked
// for all keys, a table of all keys comes last.
func (r sealReport) print(p *program, keys bool) error {
	table := p.NewTable("\nKEK", "STATE", "CURRENT", "OLD_KEK", "UNREADABLE")
	for _, k := range r.KEKs {
		table.Row(k.ID, string(k.State), formatCount(k.Current), formatCount(k.OldKEK), formatCount(k.Unreadable))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := r.printUnreadable(p); err != nil {
		return err
	}
	if !keys {
		return nil
	}
	table = p.NewTable("\nKEY", "USER", "PROVIDER", "NAME", "STATE", "SEAL STATE", "KEK", "WHY")
	for _, k := range r.Keys {
		table.Row(k.ID, orDash(k.UserScope), k.Provider, k.Name, k.State, k.SealState, k.KEKID, orDash(k.Reason))
	}
	return table.Flush()
}

func (r sealReport) printUnreadable(p *program) error {
	if len(r.Unreadable) == 0 {
		return nil
	}
	table := p.NewTable("\nUNREADABLE KEY", "CUSTOMER", "PROJECT", "KEK", "WHY")
	for _, u := range r.Unreadable {
		table.Row(u.KeyID, u.CustomerID, u.ProjectID, u.KEKID, u.Reason)
	}
	return table.Flush()
}
