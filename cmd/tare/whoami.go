package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) whoAmICommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are to the service",
		Long:  "Shows whom your API key stands for, the project and role that it has, and where tare has it from.",
		Example: `  tare whoami
  tare whoami --profile staging -o json`,
		Args: cli.NoArguments(),
	}
	cmd.RunE = p.online(func(ctx context.Context, s *session, _ []string) error {
		ctx, cancel := p.within(ctx)
		defer cancel()
		me, err := s.WhoAmI(ctx)
		if err != nil {
			return err
		}
		return p.show(s, func() error { return p.printSession(s, me) })
	})
	return cmd
}

func (p *program) printSession(s *session, me *aikeysv1.WhoAmIResponse) error {
	return p.printDetails([]detail{
		{"User", cell{me.UserID, bold}},
		{"Role", cell{roleOf(me), plain}},
		{"Project", cell{me.CustomerID + "/" + me.ProjectID, plain}},
		{"Logged in", cell{string(me.Method) + " " + me.TokenID, plain}},
		{"Expires", cell{stamp(me.ExpiresAt, time.Now()), yellow}},
		{"Server", cell{s.baseURL, plain}},
		{"Key from", cell{s.keyFrom, plain}},
	})
}

func roleOf(me *aikeysv1.WhoAmIResponse) string {
	if me.Role == "" {
		return "none: no member of the project"
	}
	return string(me.Role)
}
