package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
)

// The forms of what check prints.
const (
	outputTable = "table"
	outputJSON  = "json"
)

// checkRequest is what check is asked for beside its checks.
type checkRequest struct {
	deep, keys        bool
	customer, project string
	output            string
}

func (r *checkRequest) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&r.deep, "deep", false, "try each envelope, and list the keys that can't be read")
	flags.BoolVar(&r.keys, "keys", false, "list the keys of a project, and how each is sealed")
	flags.StringVar(&r.customer, "customer", "", "customer that the project belongs to, for --keys")
	flags.StringVar(&r.project, "project", "", "project, for --keys")
	flags.StringVarP(&r.output, "output", "o", outputTable, "form of the output: table or json")
}

func (r *checkRequest) check() error {
	ids := []identifier{{"--customer", &r.customer, r.keys}, {"--project", &r.project, r.keys}}
	err := checkIDs(ids)
	if !r.keys && r.customer+r.project != "" {
		err = errors.Join(err, cli.Usagef("--customer and --project: are for --keys"))
	}
	if r.output != outputTable && r.output != outputJSON {
		err = errors.Join(err, cli.Usagef("--output: must be %s or %s", outputTable, outputJSON))
	}
	return err
}

// checkResult is a line of the first table.
type checkResult struct {
	Check  string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// checkReport is the whole output. Of keys it has ids and states, never envelopes.
type checkReport struct {
	Checks []checkResult `json:"checks"`
	sealReport
}

// sealReport is how keys are sealed. Keks is nil where that could not be found out, and the others where it was not
// asked.
type sealReport struct {
	KEKs       []kekReport        `json:"keks"`
	Unreadable []unreadableReport `json:"unreadable,omitempty"`
	Keys       []keyReport        `json:"keys,omitempty"`
}

type kekReport struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	Current    int64  `json:"current"`
	OldKEK     int64  `json:"old_kek"`
	Unreadable int64  `json:"unreadable"`
}

type unreadableReport struct {
	ID         string `json:"id"`
	CustomerID string `json:"customer_id"`
	ProjectID  string `json:"project_id"`
	KEKID      string `json:"kek_id"`
	Reason     string `json:"reason"`
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
}

// keys counts the keys by how they are sealed. It fails if one can't be read.
func (c *checker) keys(ctx context.Context) (string, error) {
	if c.sealer == nil || !c.ready {
		return "", errSkipped
	}
	inspector, err := rewrap.NewInspector(ctx, c.store, c.sealer)
	if err != nil {
		return "", unreachableSealer(c.cfg, err)
	}
	keks, unreadable, err := c.countKeys(ctx, inspector)
	if err != nil {
		return "", unreachableSealer(c.cfg, err)
	}
	c.seals = newSealReport(keks, unreadable)
	if c.asked.keys {
		if c.seals.Keys, err = c.listKeys(ctx, inspector); err != nil {
			return "", unreachableSealer(c.cfg, err)
		}
	}
	var current, other, lost int64
	for _, kek := range keks {
		current, other, lost = current+kek.Current, other+kek.All()-kek.Current, lost+kek.Unreadable
	}
	if lost > 0 {
		return "", fmt.Errorf("%s of %d can't be read%s", keysText(lost), current+other, c.whichKeys())
	}
	return fmt.Sprintf("%d sealed with the current key-encryption key (%s), %d with others", current, inspector.Primary(), other), nil
}

func (c *checker) whichKeys() string {
	if c.asked.deep {
		return "; they are listed below"
	}
	return ", by what their rows say; aikeysd check --deep lists them"
}

func (c *checker) countKeys(ctx context.Context, inspector *rewrap.Inspector) ([]rewrap.KEKKeys, []rewrap.Unreadable, error) {
	if c.asked.deep {
		return inspector.Sample(ctx, 0)
	}
	keks, err := inspector.Count(ctx)
	return keks, nil, err
}

// keysPage is how many keys are read, and tried, at once.
const keysPage = 100

func (c *checker) listKeys(ctx context.Context, inspector *rewrap.Inspector) ([]keyReport, error) {
	reports := []keyReport{}
	for after := ""; ; {
		page, err := c.store.SealedKeysOf(ctx, c.asked.customer, c.asked.project, after, keysPage)
		if err != nil {
			return nil, err
		}
		seals, err := c.sealsOf(ctx, inspector, page)
		if err != nil {
			return nil, err
		}
		for i, k := range page {
			reports = append(reports, newKeyReport(k, seals[i]))
		}
		if len(page) < keysPage {
			return reports, nil
		}
		after = page[len(page)-1].ID
	}
}

func (c *checker) sealsOf(ctx context.Context, inspector *rewrap.Inspector, keys []models.Key) ([]rewrap.EnvelopeStatus, error) {
	if c.asked.deep {
		return inspector.Check(ctx, keys)
	}
	seals := make([]rewrap.EnvelopeStatus, len(keys))
	for i, k := range keys {
		seals[i] = inspector.Classify(k)
	}
	return seals, nil
}

func newKeyReport(k models.Key, seal rewrap.EnvelopeStatus) keyReport {
	state := models.KeyActive
	if k.RevokedAt != 0 {
		state = models.KeyRevoked
	}
	return keyReport{ID: k.ID, UserScope: k.UserID, Provider: k.Provider, Name: k.Name, State: string(state),
		SealState: string(seal.State), KEKID: seal.KEKID, Reason: seal.Reason()}
}

func newSealReport(keks []rewrap.KEKKeys, unreadable []rewrap.Unreadable) sealReport {
	report := sealReport{KEKs: []kekReport{}}
	for _, k := range keks {
		report.KEKs = append(report.KEKs, kekReport{k.ID, string(k.State), k.Current, k.OldKEK, k.Unreadable})
	}
	for _, u := range unreadable {
		report.Unreadable = append(report.Unreadable, unreadableReport{u.KeyID, u.CustomerID, u.ProjectID, u.KEKID, u.Reason})
	}
	return report
}

// print prints the checks, and after them how keys are sealed, as far as that is known.
func (r checkReport) print(p *program, asked checkRequest) error {
	if asked.output == outputJSON {
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
	return r.sealReport.print(p, asked.keys)
}

// print prints a table of the key-encryption keys, one of the keys that can't be read if there are any, and one of all
// keys if they were asked for.
func (r sealReport) print(p *program, keys bool) error {
	table := p.NewTable("\nKEK", "STATE", "CURRENT", "OLD_KEK", "UNREADABLE")
	for _, k := range r.KEKs {
		table.Row(k.ID, k.State, count(k.Current), count(k.OldKEK), count(k.Unreadable))
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
		table.Row(u.ID, u.CustomerID, u.ProjectID, u.KEKID, u.Reason)
	}
	return table.Flush()
}
