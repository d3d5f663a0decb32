package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

func (p *program) devCommand() *cobra.Command {
	cfg := newSettings()
	cfg.of("log-format").preset(formatText)
	var data string
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Start everything on this machine, with a session that is ready to use",
		GroupID: groupStart,
		Args:    noArguments(),
		Long: `Starts everything on this machine: SQLite, a local keyset, a project with an owner and a member, and an API key for
each. It prints commands to try. What it makes stays in the folder --data, and the next start uses it again; delete the
folder to begin anew.

It is for development alone: it listens on this machine only, and refuses production settings.`,
		Example: `  aikeysd dev
  aikeysd dev --data /tmp/aikeys --listen 127.0.0.1:0 --ops-listen 127.0.0.1:0`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.loadAnd(p.environ, cfg.checkDevelopment); err != nil {
				return err
			}
			cfg.useFolder(data)
			return p.dev(cmd.Context(), cfg, data)
		},
	}
	cmd.Flags().StringVar(&data, "data", "data", "folder for the database, the keyset and the session; made if it is missing")
	cfg.addFlags(cmd.Flags(), devSettings()...)
	return cmd
}

// devSettings are those that dev takes. All others would make it something else than a playground.
func devSettings() []string { return []string{"listen", "ops-listen", "log-level", "log-format"} }

// checkDevelopment refuses production settings.
func (s *settings) checkDevelopment() (complaints []string) {
	for _, d := range s.declared {
		if d.origin != fromDefault && !slices.Contains(devSettings(), d.name) {
			complaints = append(complaints, d.given()+": dev takes no production settings; unset it, or run: aikeysd serve")
		}
	}
	for _, name := range []string{"listen", "ops-listen"} {
		if d := s.of(name); d.parse(d.text) == nil && !isLoopback(d.text) {
			complaints = append(complaints, d.given()+": dev listens on this machine only, such as on 127.0.0.1:8080; for others, run: aikeysd serve")
		}
	}
	return complaints
}

// useFolder keeps everything in one folder.
func (s *settings) useFolder(data string) {
	s.DatabaseURL = sqlitePrefix + filepath.Join(data, "aikeys.db")
	s.Sealer = sealerLocal + ":" + filepath.Join(data, "keyset.json")
}

func (p *program) dev(ctx context.Context, cfg *settings, data string) error {
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
		return writeSummary(p.stdout, session, s.ops.URL())
	}
	return s.run(ctx)
}
