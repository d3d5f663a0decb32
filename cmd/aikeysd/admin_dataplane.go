package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
Whoever has one can fetch the provider keys of its customers in plain text: keep it as you would keep those. It is a
token, which is shown once, when it is created, as the database holds only a hash of it; or a client certificate of your
own authority, of which the database holds a name.`,
		Example: `  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)
  aikeysd admin dataplane list`,
	}, p.dataPlaneCreateCommand(), p.dataPlaneListCommand(), p.dataPlaneRevokeCommand())
}

func (p *program) dataPlaneCreateCommand() *cobra.Command {
	var name, certificate, expires string
	var customers []string
	return p.newAdmin(&cobra.Command{
		Use:   "create",
		Short: "Create the credential of a data plane",
		Long: `Creates the credential of a data plane, and prints it alone on standard output, so that it can go straight into a file
or a secret store; notes go to standard error. It is shown this once. Give each gateway one of its own, named after it.

With --certificate there is no token, and nothing is printed on standard output: a client certificate that an authority
of --dataplane-client-ca vouches for is the credential, if it has this name.`,
		Example: `  (umask 077; aikeysd admin dataplane create --name edge-1 --customer acme > edge-1.token)
  aikeysd admin dataplane create --name edge-2 --customer acme --customer globex --expires 90d
  aikeysd admin dataplane create --name edge-3 --customer acme --certificate dns:edge-3.internal`,
	}, adminSpec{everywhere: true, flags: func(flags *pflag.FlagSet) {
		flags.StringVar(&name, "name", "", "name of the data plane, which no other active one has (required)")
		flags.StringSliceVar(&customers, "customer", nil, "`customer` that it may serve; give it again for more; without any, it may serve ALL customers")
		flags.StringVar(&certificate, "certificate", "", "`name` that its client certificate has: dns:<name>, uri:<name> or cn:<name>, exactly; no other active one may have it")
		flags.StringVar(&expires, "expires", "0", "`lifetime` of the credential in hours or days, such as 720h or 30d; 0 does not expire")
	}, check: func() error {
		ids := []identifier{{"--name", &name, true}}
		for i := range customers {
			ids = append(ids, identifier{"--customer", &customers[i], true})
		}
		err := checkIDs(ids)
		if _, wrong := lifetime(expires); wrong != nil {
			err = errors.Join(err, cli.Usagef("--expires: %s", wrong))
		}
		if _, wrong := identity.ParseCertificate(certificate); wrong != nil && certificate != "" {
			err = errors.Join(err, cli.Usagef("--certificate: %s", wrong))
		}
		return err
	}, act: func(ctx context.Context, a *admin) error {
		life, err := lifetime(expires)
		if err != nil {
			return err
		}
		text, made, err := createDataPlane(ctx, a.store, models.DataPlane{
			Name: name, Certificate: certificate, Customers: customers, CreatedBy: a.operator(),
		}, life)
		if errors.Is(err, models.ErrAlreadyExists) {
			return a.dataPlaneExists(ctx, name, certificate)
		}
		if err != nil {
			return err
		}
		if made.Customers == nil {
			a.Note("WARNING: no --customer was given, so whoever has this credential can fetch the keys of ALL customers")
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
				made.Name, made.ID, served(made), databaseName(a.cfg.DatabaseURL), certificate, moment(made.ExpiresAt))
			return nil
		}
		a.Note("Credential %s of data plane %s for %s in %s; expires: %s. It is shown this once.",
			made.ID, made.Name, served(made), databaseName(a.cfg.DatabaseURL), moment(made.ExpiresAt))
		return a.Say("%s", text)
	}})
}

// createDataPlane stores a new data plane. Unless it has a certificate, that comes with a token, of which the hash is stored.
// ErrAlreadyExists: an active one has its name or its certificate. No customers are all of them.
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

// dataPlaneExists says which active data plane has the name, or the certificate.
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

// credentialKind tells what a data plane's credential is. No certificate's name is "token": it has a colon.
func credentialKind(d models.DataPlane) string {
	if d.Certificate != "" {
		return d.Certificate
	}
	return "token"
}

// served names the customers that a data plane may serve. No id has brackets.
func served(d models.DataPlane) string {
	if d.Customers == nil {
		return "(all)"
	}
	return strings.Join(d.Customers, ",")
}

func (p *program) dataPlaneListCommand() *cobra.Command {
	return p.newAdmin(&cobra.Command{
		Use:   "list",
		Short: "List the credentials of data planes",
		Long: `Lists the credentials of data planes by age, those that are over included: a token, or the name in a certificate. Ids
are no secrets. STREAMS counts the connections that are open with it, or were a moment ago: with none, no gateway runs
on it. Who created and who revoked it is the user of the machine that the command ran on, as that told it.`,
		Example: `  aikeysd admin dataplane list`,
	}, adminSpec{everywhere: true, act: func(ctx context.Context, a *admin) error {
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
			table.Row(d.ID, d.Name, credentialKind(d), served(d), moment(d.CreatedAt), moment(d.ExpiresAt), credentialState(d.RevokedAt, d.Live(now)),
				strconv.Itoa(streams[d.ID]), orDash(d.CreatedBy), moment(d.RevokedAt), orDash(d.RevokedBy))
		}
		return table.Flush()
	}})
}

func (p *program) dataPlaneRevokeCommand() *cobra.Command {
	var name string
	return p.newAdmin(&cobra.Command{
		Use:   "revoke",
		Short: "Revoke the credential of a data plane",
		Long: `Revokes the credential of a data plane for good. Servers that run refuse it from the next request on, and end its
stream of events, so that it serves nothing more from its cache than its lease allows. Its name is free again.`,
		Example: `  aikeysd admin dataplane revoke --name edge-1`,
	}, adminSpec{everywhere: true, flags: func(flags *pflag.FlagSet) {
		flags.StringVar(&name, "name", "", "name of the data plane, as \"dataplane list\" shows it (required)")
	}, check: func() error {
		return checkIDs([]identifier{{"--name", &name, true}})
	}, act: func(ctx context.Context, a *admin) error {
		var revoked models.DataPlane
		err := a.store.Transact(ctx, func(tx *models.Tx) (err error) {
			revoked, err = tx.RevokeDataPlane(name, a.operator())
			return err
		})
		if errors.Is(err, models.ErrNotFound) {
			revoked, err = a.revokedBefore(ctx, name)
		}
		if err != nil {
			return err
		}
		a.Note("data plane %s (%s) in %s is revoked since %s, by %s",
			revoked.Name, revoked.ID, databaseName(a.cfg.DatabaseURL), moment(revoked.RevokedAt), orDash(revoked.RevokedBy))
		return nil
	}})
}

// revokedBefore finds the last one that had the name, so that to revoke again changes nothing and is no error.
func (a *admin) revokedBefore(ctx context.Context, name string) (last models.DataPlane, err error) {
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
