package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) dataPlaneCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "dataplane",
		Short: "Create, list and revoke the credentials of data planes",
		Long: `Creates, lists and revokes the credentials with which data planes, such as aikeys-gateway, call the data-plane API.
Anyone who has one can fetch the provider keys of its customers in plain text: keep it as carefully as the keys. A
credential is a token or a client certificate of your own authority. A token is shown once, when it is created, because
the database holds only a hash of it. Of a certificate, the database holds the name.`,
		Example: `  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)
  aikeysd admin dataplane list`,
	}, p.dataPlaneCreateCommand(), p.dataPlaneListCommand(), p.dataPlaneRevokeCommand())
}

func (p *program) dataPlaneCreateCommand() *cobra.Command {
	var name, certificate, expires string
	var customers []string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create the credential of a data plane",
		Long: `Creates the credential of a data plane, and prints nothing else on standard output, so that it can go straight into a
file or a secret store; notes go to standard error. The credential is shown only this once. Give each gateway its own,
with its name.

With --certificate there is no token, and nothing is printed on standard output. The credential is then any client
certificate that has this name and is signed by an authority of --dataplane-client-ca.`,
		Example: `  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)
  aikeysd admin dataplane create --name edge-2 --customer acme --customer globex --expires 90d
  aikeysd admin dataplane create --name edge-3 --customer acme --certificate dns:edge-3.internal`,
	}
	a := p.newAdmin()
	cmd.Flags().StringVar(&name, "name", "", "name of the data plane; no other active one may have it (required)")
	cmd.Flags().StringSliceVar(&customers, "customer", nil, "`customer` that it may serve; repeat the flag for more; without it, the data plane may serve ALL customers")
	cmd.Flags().StringVar(&certificate, "certificate", "", "`name` that its client certificate has: dns:<name>, uri:<name> or cn:<name>, exactly; no other active one may have it")
	cmd.Flags().StringVar(&expires, "expires", "0", "`lifetime` of the credential in hours or days, such as 720h or 30d; 0 does not expire")
	var life time.Duration
	return a.command(cmd, func() (err error) {
		ids := []identifier{{"--name", &name, true}}
		for i := range customers {
			ids = append(ids, identifier{"--customer", &customers[i], true})
		}
		life, err = lifetime(expires)
		if _, badName := identity.ParseCertificate(certificate); badName != nil && certificate != "" {
			err = errors.Join(err, cli.Usagef("--certificate: %s", badName))
		}
		return errors.Join(checkIDs(ids), err)
	}, func(ctx context.Context) error {
		text, made, err := createDataPlane(ctx, a.store, models.DataPlane{
			Name: name, Certificate: certificate, Customers: customers, CreatedBy: a.operator.name,
		}, life)
		if errors.Is(err, models.ErrAlreadyExists) {
			return a.dataPlaneExists(ctx, name, certificate)
		}
		if err != nil {
			return err
		}
		if made.Customers == nil {
			a.Note("WARNING: no --customer was given, so anyone who has this credential can fetch the keys of ALL customers")
		}
		unknown, err := a.store.UnknownCustomers(ctx, customers)
		if err != nil {
			return err
		}
		for _, customer := range unknown {
			a.Note("NOTE: there is no project of customer %s yet; is it spelled right?", customer)
		}
		if certificate != "" {
			a.Note("Data plane %s (%s) for %s in %s, by client certificates with the name %s; expires: %s. There is no token.",
				made.Name, made.ID, customersOf(made), databaseName(a.cfg.DatabaseURL), certificate, formatTime(made.ExpiresAt))
			return nil
		}
		a.Note("Credential %s of data plane %s for %s in %s; expires: %s. It is shown only once.",
			made.ID, made.Name, customersOf(made), databaseName(a.cfg.DatabaseURL), formatTime(made.ExpiresAt))
		return a.Say("%s", text)
	})
}

// createDataPlane stores a new data plane. If it has no certificate, createDataPlane makes a token for it, stores the
// token's hash, and returns the token. A data plane without customers may serve all customers. If an active data plane
// has the same name or certificate, createDataPlane returns ErrAlreadyExists. With a life of 0, the credential does not
// expire.
func createDataPlane(ctx context.Context, store *models.Store, want models.DataPlane, life time.Duration) (
	text string, made models.DataPlane, err error,
) {
	err = store.Transact(ctx, func(tx *models.Tx) error {
		now := time.UnixMicro(tx.Now)
		made = want
		made.CreatedAt = tx.Now
		if len(made.Customers) == 0 {
			made.Customers = nil
		}
		if life > 0 {
			made.ExpiresAt = now.Add(life).UnixMicro()
		}
		var hash []byte
		if text, made.ID, hash, err = auth.MintDataPlane(now); err != nil {
			return err
		}
		if made.Certificate == "" {
			made.Hash = hash
		} else {
			text = ""
		}
		return tx.CreateDataPlane(made)
	})
	return text, made, err
}

// dataPlaneExists returns an error that names the active data plane that already has the name or the certificate.
func (a *admin) dataPlaneExists(ctx context.Context, name, certificate string) error {
	all, err := a.store.ListDataPlanes(ctx)
	if err != nil {
		return err
	}
	for _, d := range all {
		if d.RevokedAt == 0 && d.Name != name && d.Certificate == certificate && certificate != "" {
			return fmt.Errorf("certificates with the name %s are those of the active data plane %s; choose another name, or first run: "+
				"aikeysd admin dataplane revoke --name %s%s", certificate, d.Name, d.Name, a.cfg.databaseFlags())
		}
	}
	return fmt.Errorf("an active data plane has the name %s; choose another one, or first run: aikeysd admin dataplane revoke --name %s%s",
		name, name, a.cfg.databaseFlags())
}

// credentialName returns the name in a data plane's certificate, or "token" if it has no certificate. No name in a
// certificate equals "token", because every such name contains a colon.
func credentialName(d models.DataPlane) string {
	if d.Certificate != "" {
		return d.Certificate
	}
	return "token"
}

// customersOf lists the customers that a data plane may serve. If it may serve all customers, customersOf returns
// "(all)". No customer can have this id, because ids contain no brackets.
func customersOf(d models.DataPlane) string {
	if d.Customers == nil {
		return "(all)"
	}
	return strings.Join(d.Customers, ",")
}

func (p *program) dataPlaneListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the credentials of data planes",
		Long: `Lists the credentials of data planes, oldest first, with those that are revoked or expired. CREDENTIAL is "token", or
the name in a certificate. The ids are not secret. STREAMS counts the connections that are open with the credential or
were open in the last seconds; 0 means that no gateway uses it. CREATED BY and REVOKED BY name the user who ran the
command, and the machine.`,
		Example: `  aikeysd admin dataplane list`,
	}
	a := p.newAdmin()
	return a.command(cmd, nil, func(ctx context.Context) error {
		all, err := a.store.ListDataPlanes(ctx)
		if err != nil {
			return err
		}
		streams, err := a.store.CountStreams(ctx)
		if err != nil {
			return err
		}
		now := time.Now().UnixMicro()
		table := a.NewTable("ID", "NAME", "CREDENTIAL", "CUSTOMERS", "CREATED", "EXPIRES", "STATE", "STREAMS", "CREATED BY", "REVOKED", "REVOKED BY")
		for _, d := range all {
			table.Row(d.ID, d.Name, credentialName(d), customersOf(d), formatTime(d.CreatedAt), formatTime(d.ExpiresAt),
				credentialState(d.RevokedAt, d.Live(now)), strconv.Itoa(streams[d.ID]), orDash(d.CreatedBy), formatTime(d.RevokedAt), orDash(d.RevokedBy))
		}
		return table.Flush()
	})
}

func (p *program) dataPlaneRevokeCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Revoke the credential of a data plane",
		Long: `Revokes the credential of a data plane permanently. Running servers refuse it from the next request on, and end its
stream of events, so that it uses its cache only until its lease ends. Another data plane may then have its name.`,
		Example: `  aikeysd admin dataplane revoke --name edge-1`,
	}
	a := p.newAdmin()
	cmd.Flags().StringVar(&name, "name", "", "name of the data plane, as \"dataplane list\" shows it (required)")
	return a.command(cmd, func() error { return checkIDs([]identifier{{"--name", &name, true}}) }, func(ctx context.Context) error {
		var revoked models.DataPlane
		err := a.store.Transact(ctx, func(tx *models.Tx) (err error) {
			revoked, err = tx.RevokeDataPlane(name, a.operator.name)
			return err
		})
		if errors.Is(err, models.ErrNotFound) {
			revoked, err = a.findRevoked(ctx, name)
		}
		if err != nil {
			return err
		}
		a.Note("data plane %s (%s) in %s is revoked since %s, by %s",
			revoked.Name, revoked.ID, databaseName(a.cfg.DatabaseURL), formatTime(revoked.RevokedAt), orDash(revoked.RevokedBy))
		return nil
	})
}

// findRevoked returns the last revoked data plane with the name. With it, a repeated revocation succeeds and changes
// nothing.
func (a *admin) findRevoked(ctx context.Context, name string) (last models.DataPlane, err error) {
	all, err := a.store.ListDataPlanes(ctx)
	for _, d := range all {
		if d.Name == name && d.RevokedAt >= last.RevokedAt {
			last = d
		}
	}
	if err == nil && last.ID == "" {
		err = fmt.Errorf("no data plane has the name %s; see: aikeysd admin dataplane list%s", name, a.cfg.databaseFlags())
	}
	return last, err
}

// maxFetches is the maximum number of fetches in a list.
const maxFetches = 10_000

func (p *program) fetchesCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "fetches",
		Short: "List the fetches of a project's keys",
		Long: `Lists the latest fetches of a project's keys, newest first. Each line has the time, the data plane, the user, the
provider, and the key that the data plane got with the reason, or why it got none. A data plane serves requests from its
cache, so there are fewer fetches than requests.`,
		Example: `  aikeysd admin fetches --customer acme --project chat
  aikeysd admin fetches --customer acme --project chat --limit 1000`,
	}
	a := p.newProjectAdmin(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most this many")
	a.reads = true
	return a.command(cmd, func() error {
		if limit < 1 || limit > maxFetches {
			return cli.Usagef("--limit: must be a whole number from 1 to %d", maxFetches)
		}
		return nil
	}, func(ctx context.Context) error {
		fetches, err := a.store.ListFetches(ctx, a.customer, a.project, models.FetchFilter{Limit: limit})
		if err != nil {
			return err
		}
		dataPlanes, err := a.store.ListDataPlanes(ctx)
		if err != nil {
			return err
		}
		names := make(map[string]string, len(dataPlanes))
		for _, d := range dataPlanes {
			names[d.ID] = d.Name
		}
		table := a.NewTable("TIME", "DATA PLANE", "USER", "PROVIDER", "KEY", "DECISION", "REASON")
		for _, f := range fetches {
			table.Row(formatMillis(f.At), cmp.Or(names[f.DataPlaneID], f.DataPlaneID), orDash(f.UserID), orDash(f.Provider), orDash(f.KeyID),
				string(f.Decision), f.Reason)
		}
		return table.Flush()
	})
}
