package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/secrets"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/internal/unixsocket"
	"github.com/agentrouter/aikeys/sealer"
)

var errNotInOrder = errors.New("a check has failed")

func (p *program) checkCommand() *cobra.Command {
	cfg := newConfig()
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check settings, clients, certificates and keys, and change nothing",
		Args:  cli.NoArguments(),
		Long: `Checks the settings, the clients file and the certificates, and that the keys of each namespace seal and open. It
changes nothing, and may run beside a service. Exits with 1 if a check fails.`,
		Example: "  secrets-svc check",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(p.Environ); err != nil {
				return err
			}
			return p.check(cmd.Context(), cfg)
		},
	}
	cfg.AddFlags(cmd.Flags())
	return cmd
}

func (p *program) check(ctx context.Context, cfg *config) error {
	table := p.NewTable("CHECK", "RESULT", "DETAIL")
	sound := true
	row := func(name, detail string, err error) {
		result := "ok"
		if err != nil {
			result, detail, sound = "FAILED", cli.OneLine(err.Error()), false
		}
		table.Row(name, result, detail)
	}
	if err := cli.HideMemory(); err != nil {
		row("core dumps", "", err)
	} else {
		row("core dumps", "off", nil)
	}
	if _, isSocket := cfg.socketPath(); isSocket {
		_, err := unixsocket.GroupID(cfg.SocketGroup)
		row("listen", cfg.Listen, err)
	} else {
		_, err := cfg.mutualTLS(nil)
		row("listen", cfg.Listen+" with mutual TLS", err)
	}
	list, err := secrets.ReadClients(cfg.Clients)
	if err != nil {
		row("clients", "", err)
	} else {
		for _, client := range list.All() {
			may := slices.Sorted(maps.Keys(client.May))
			words := make([]string, len(may))
			for i, permission := range may {
				words[i] = string(permission)
			}
			row("client "+client.Name, fmt.Sprintf("%s may %s in %s", strings.Join(list.Identities(client.Name), ", "),
				strings.Join(words, ", "), client.Namespace), nil)
		}
		for _, name := range list.Namespaces() {
			detail, err := checkNamespace(ctx, cfg, name)
			row("namespace "+name, detail, err)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !sound {
		return errNotInOrder
	}
	return nil
}

// checkNamespace seals and opens something in a namespace.
func checkNamespace(ctx context.Context, cfg *config, name string) (detail string, err error) {
	var closers lifecycle.Closers
	s, err := cfg.openSealer(ctx, name, nil, &closers)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, closers.Close()) }()
	binding := sealer.Binding{CustomerID: "-", ProjectID: "-", KeyID: "check", Provider: "-", Version: 1}
	probe := []byte("check")
	envelope, err := s.Seal(ctx, binding, sealer.NewSecret(bytes.Clone(probe)))
	if err != nil {
		return "", err
	}
	opened, err := s.Open(ctx, binding, envelope.Bytes)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(opened.Reveal(), probe) {
		return "", sealer.ErrBinding
	}
	keks, err := s.KEKs(ctx)
	if err != nil {
		return "", err
	}
	counts := map[sealer.KEKState]int{}
	for _, kek := range keks {
		counts[kek.State]++
	}
	return fmt.Sprintf("primary %s; %d enabled, %d retired", envelope.KEKID, counts[sealer.KEKEnabled], counts[sealer.KEKRetired]), nil
}
