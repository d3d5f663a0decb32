package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) profilesCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "profiles",
		Short: "The services that you log in to",
		Long: `The services that you log in to, each under a name. One of them is in use; --profile takes another for one command.
tare login makes them.`,
		Example: `  tare profiles list
  tare profiles use prod
  tare profiles remove staging`,
	}, p.profilesListCommand(), p.profilesUseCommand(), p.profilesRemoveCommand())
}

// listedProfile is what is shown of a profile: no API key.
type listedProfile struct {
	Name       string `json:"name"`
	InUse      bool   `json:"in_use"`
	BaseURL    string `json:"base_url"`
	CustomerID string `json:"customer_id,omitempty"`
	ProjectID  string `json:"project_id,omitempty"`
	UserID     string `json:"user_id,omitempty"`
	LoggedIn   bool   `json:"logged_in"`
}

func (p *program) profilesListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the profiles",
		Long:    "Lists the profiles, without their API keys. It asks no server: who you are is what it said at the log-in.",
		Example: "  tare profiles list",
		Args:    cli.NoArguments(),
	}
	cmd.RunE = p.doing(func(context.Context, []string) error {
		all, err := p.loadProfiles()
		if err != nil {
			return err
		}
		listed := make([]listedProfile, 0, len(all.Profiles))
		for _, name := range all.names() {
			each := all.Profiles[name]
			customer, project := each.CustomerID, each.ProjectID
			if each.Customer != "" {
				customer = each.Customer
			}
			if each.Project != "" {
				project = each.Project
			}
			listed = append(listed, listedProfile{
				Name: name, InUse: name == all.Current, BaseURL: each.BaseURL,
				CustomerID: customer, ProjectID: project, UserID: each.UserID, LoggedIn: !each.APIKey.IsZero(),
			})
		}
		if p.flags.output != asTable {
			return p.showValue(map[string]any{"profiles": listed})
		}
		return p.printProfiles(listed)
	})
	return cmd
}

func (p *program) printProfiles(listed []listedProfile) error {
	if len(listed) == 0 {
		p.tell("There are no profiles. Make one: tare login")
		return nil
	}
	t := &table{columns: []column{
		{head: "PROFILE"}, {head: "SERVER", flexible: true}, {head: "PROJECT", flexible: true, spare: 2}, {head: "USER", spare: 1}, {head: ""},
	}}
	for _, each := range listed {
		name, state := cell{each.Name, plain}, cell{}
		if each.InUse {
			name.style, state = bold, cell{"in use", green}
		}
		if !each.LoggedIn {
			state = cell{"logged out", yellow}
		}
		t.row(name, cell{each.BaseURL, plain}, cell{each.CustomerID + "/" + each.ProjectID, plain}, cell{each.UserID, plain}, state)
	}
	return p.print(t)
}

func (p *program) profilesUseCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "use <name>",
		Short:             "Use a profile from now on",
		Long:              "Makes a profile the one that commands use, unless --profile or the environment says otherwise.",
		Example:           "  tare profiles use prod",
		Args:              oneArgument("the profile's name"),
		ValidArgsFunction: first(p.profileNames),
	}
	cmd.RunE = p.doing(func(ctx context.Context, args []string) error {
		name := args[0]
		err := p.changeProfiles(ctx, func(all *profiles) error {
			_, err := all.named(name)
			all.Current = name
			return err
		})
		if err != nil {
			return err
		}
		return p.done(fmt.Sprintf("The profile %s is in use.", name), map[string]any{"profile": name, "in_use": true})
	})
	return cmd
}

func (p *program) profilesRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "remove <name>",
		Short:             "Remove a profile and its API key from this machine",
		Long:              "Removes a profile and its API key from this machine. Nothing changes on the server.",
		Example:           "  tare profiles remove staging",
		Args:              oneArgument("the profile's name"),
		ValidArgsFunction: first(p.profileNames),
	}
	cmd.RunE = p.doing(func(ctx context.Context, args []string) error {
		name := args[0]
		err := p.changeProfiles(ctx, func(all *profiles) error {
			_, err := all.named(name)
			delete(all.Profiles, name)
			if all.Current == name {
				all.Current = defaultProfile
			}
			return err
		})
		if err != nil {
			return err
		}
		return p.done(fmt.Sprintf("Removed the profile %s.", name), map[string]any{"profile": name, "removed": true})
	})
	return cmd
}
