package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) providerCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "provider",
		Short: "Add, list and delete a customer's own servers",
		Long: `Adds, lists and deletes custom providers: servers of a customer's own that speak the API of OpenAI or of Anthropic, such
as vLLM, Ollama, LM Studio or LiteLLM. The customer's projects then register keys for the slug as for any provider. A
gateway connects to such a server only if the gateway's operator allows that: see --upstream-allow of aikeys-gateway.`,
		Example: `  aikeysd admin provider create --customer acme --slug x-vllm --base-url https://llm.acme.example/v1
  aikeysd admin provider create --customer acme --slug x-ollama --base-url http://10.20.0.7:11434/v1 --auth none
  aikeysd admin provider list --customer acme`,
	}, p.providerCreateCommand(), p.providerListCommand(), p.providerDeleteCommand())
}

// newCustomerAdmin returns an admin for a command on one customer, and gives the command the flag --customer.
func (p *program) newCustomerAdmin(cmd *cobra.Command) *admin {
	a := p.newAdmin()
	cmd.Flags().StringVar(&a.customer, "customer", "", "customer that owns the server (required)")
	a.idFlags = []identifier{{"--customer", &a.customer, true}}
	return a
}

func (p *program) providerCreateCommand() *cobra.Command {
	var slug, name, baseURL, dialect, auth, header string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Add a server",
		Long: `Adds a server of a customer's own. It never changes: keys are sealed for its base URL, and open for no other. To move a
server, add it under another slug; or revoke its keys, delete it and add it again.

With --auth none the server takes no key. Register a key for it nevertheless, with the word none as its secret: the key
says who may use the server, and can be revoked.`,
		Example: `  aikeysd admin provider create --customer acme --slug x-vllm --base-url https://llm.acme.example/v1
  aikeysd admin provider create --customer acme --slug x-a --base-url https://a.example --auth header --header K`,
	}
	a := p.newCustomerAdmin(cmd)
	cmd.Flags().StringVar(&slug, "slug", "", "x- and a name; paths at gateways begin with it (required)")
	cmd.Flags().StringVar(&baseURL, "base-url", "", "http or https URL, to which gateways append the rest of the path (required)")
	cmd.Flags().StringVar(&name, "name", "", "display name; empty means the slug")
	cmd.Flags().StringVar(&dialect, "dialect", string(providers.DialectOpenAI), "API that it speaks: openai or anthropic")
	cmd.Flags().StringVar(&auth, "auth", string(providers.AuthBearer), "where requests carry the key: bearer, header or none")
	cmd.Flags().StringVar(&header, "header", "", "name of the header for --auth header, such as X-Api-Key")
	var custom providers.Custom
	return a.command(cmd, func() error {
		if name == "" {
			name = slug
		}
		custom = providers.CustomOf(slug, name, baseURL, dialect, auth, header)
		var errs []error
		for _, fault := range custom.Check() {
			errs = append(errs, cli.Usagef("--%s: %s", strings.ReplaceAll(fault.Field, "_", "-"), fault.Message))
		}
		return errors.Join(errs...)
	}, func(ctx context.Context) error {
		err := a.store.Transact(ctx, func(tx *models.Tx) error {
			return tx.CreateCustomProvider(models.CustomProvider{
				CustomerID: a.customer, Slug: slug, Name: name, BaseURL: baseURL, Dialect: dialect, Auth: auth, Header: header,
				Digest: custom.Digest(), CreatedBy: a.operator.name,
			})
		})
		if errors.Is(err, models.ErrAlreadyExists) {
			return fmt.Errorf("%s already has a provider %s, and a provider can't be changed", a.customer, slug)
		}
		if err != nil {
			return err
		}
		a.Note("%s of %s in %s is at %s", slug, a.customer, databaseName(a.cfg.DatabaseURL), baseURL)
		return nil
	})
}

func (p *program) providerListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List a customer's own servers",
		Long:    `Lists the custom providers of a customer, by slug: those of operators, for all projects, and those of projects' owners.`,
		Example: `  aikeysd admin provider list --customer acme`,
	}
	a := p.newCustomerAdmin(cmd)
	return a.command(cmd, nil, func(ctx context.Context) error {
		all, err := a.store.ListCustomProviders(ctx, a.customer, "")
		if err != nil {
			return err
		}
		table := a.NewTable("SLUG", "PROJECT", "DIALECT", "AUTH", "HEADER", "CREATED", "CREATED BY", "BASE URL", "NAME")
		for _, p := range all {
			table.Row(p.Slug, cmp.Or(p.ProjectID, "all"), p.Dialect, p.Auth, orDash(p.Header), formatTime(p.CreatedAt), p.CreatedBy, p.BaseURL, p.Name)
		}
		return table.Flush()
	})
}

func (p *program) providerDeleteCommand() *cobra.Command {
	var slug string
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Delete a server that has no keys",
		Long: `Deletes a custom provider, unless it has keys that are not revoked. Each project that added it, or had keys for it, gets
an event that names you.`,
		Example: `  aikeysd admin provider delete --customer acme --slug x-vllm`,
	}
	a := p.newCustomerAdmin(cmd)
	cmd.Flags().StringVar(&slug, "slug", "", "slug of the provider (required)")
	return a.command(cmd, func() error {
		if !providers.IsCustom(slug) {
			return cli.Usagef("--slug: must be the slug of a custom provider, such as x-vllm")
		}
		return nil
	}, func(ctx context.Context) error {
		err := a.store.Transact(ctx, func(tx *models.Tx) error {
			return tx.DeleteCustomProvider(a.customer, slug, func(project string) models.Event {
				return a.operator.event(tx, models.EventProviderDeleted, models.Caller{CustomerID: a.customer, ProjectID: project})
			})
		})
		switch {
		case errors.Is(err, models.ErrNotFound):
			return fmt.Errorf("%s has no provider %s", a.customer, slug)
		case errors.Is(err, models.ErrInUse):
			return fmt.Errorf("%s of %s has keys that are not revoked; revoke them first", slug, a.customer)
		case err != nil:
			return err
		}
		a.Note("%s of %s in %s is deleted", slug, a.customer, databaseName(a.cfg.DatabaseURL))
		return nil
	})
}
