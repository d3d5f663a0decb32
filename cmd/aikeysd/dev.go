package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
)

func (p *program) devCommand() *cobra.Command {
	cfg := newConfig()
	cfg.Of("log-format").Preset(cli.LogText)
	var data string
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Start everything on this machine, with a session that is ready to use",
		GroupID: groupStart,
		Args:    cli.NoArguments(),
		Long: `Starts everything on this machine: SQLite, a local keyset, a project with an owner and a member, and an API key for
each. It prints commands to try. What it makes stays in the folder --data, and the next start uses it again; delete the
folder to begin anew.

It is for development alone: it listens on this machine only, and refuses production settings.`,
		Example: `  aikeysd dev
  aikeysd dev --data /tmp/aikeys --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.Read(p.Environ, cfg.checkDevelopment); err != nil {
				return err
			}
			cfg.useFolder(data)
			return p.dev(cmd.Context(), cfg, data)
		},
	}
	cmd.Flags().StringVar(&data, "data", "data", "folder for the database, the keyset and the session; made if it is missing")
	cfg.AddFlags(cmd.Flags(), devSettings()...)
	return cmd
}

// devSettings are those that dev takes. All others would make it something else than a playground.
func devSettings() []string { return []string{"listen", "ops-listen", "log-level", "log-format"} }

// checkDevelopment refuses production settings.
func (s *config) checkDevelopment() (complaints []string) {
	for _, d := range s.All() {
		if d.Origin() != settings.FromDefault && !slices.Contains(devSettings(), d.Name) {
			complaints = append(complaints, d.Given()+": dev takes no production settings; unset it, or run: aikeysd serve")
		}
	}
	for _, name := range []string{"listen", "ops-listen"} {
		if d := s.Of(name); d.Parse(d.String()) == nil && !settings.IsLoopback(d.String()) {
			complaints = append(complaints, d.Given()+": dev listens on this machine only, such as on 127.0.0.1:8080; for others, run: aikeysd serve")
		}
	}
	return complaints
}

// useFolder keeps everything in one folder.
func (s *config) useFolder(data string) {
	s.DatabaseURL = sqlitePrefix + filepath.Join(data, "aikeys.db")
	s.Sealer = sealerLocal + ":" + filepath.Join(data, "keyset.json")
}

func (p *program) dev(ctx context.Context, cfg *config, data string) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	s, err := p.newService(ctx, cfg)
	if err != nil {
		return err
	}
	s.onReady = func(ctx context.Context) error {
		session, err := s.seed(ctx, filepath.Join(data, "session.env"))
		if err != nil {
			return err
		}
		return writeSummary(p.Stdout, session, s.ops.URL())
	}
	return s.run(ctx)
}
