package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

const (
	mostHeld = 30 * time.Second       // that the service holds an answer
	refresh  = 100 * time.Millisecond // of the progress on a terminal
)

func (p *program) removeCommand() *cobra.Command {
	yes, wait := false, 5*time.Second
	cmd := &cobra.Command{
		Use:   "remove <id>",
		Short: "Revoke a key, and wait until every data plane has dropped it",
		Long: `Revokes a key for good. No request gets it from then on, and data planes that have it cached drop it within a
second. tare waits until all of them have confirmed: that is the receipt. When it is not complete within --wait, the
exit code is 8; the key is revoked all the same. Revoking again is safe, and shows the receipt.

On a terminal tare asks first, unless --yes. Scripts are not asked.`,
		Example: `  tare api byok remove byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok remove byok_01M83VVAHV8M2T5K7N9R4W1XYZ --yes --wait 30s`,
		Args:              oneArgument("the key's id"),
		ValidArgsFunction: first(p.live(offeredKeys(aikeysv1.KeyStateActive))),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().Var(&period{to: &wait}, "wait", "how long to wait for the receipt; with 0 it is not waited for, and the exit code is 0")
	p.completesTo(cmd, "wait", nothing)
	cmd.RunE = p.online(func(ctx context.Context, s *session, args []string) error {
		id, err := keyID(args[0])
		if err != nil {
			return err
		}
		if asking := p.prompts(); asking != nil && !yes {
			if err := p.confirmRemoval(ctx, s, asking, id); err != nil {
				return err
			}
		}
		return p.remove(ctx, s, id, wait)
	})
	return cmd
}

// confirmRemoval shows which key it is, and asks. One that is revoked already costs nothing to revoke again.
func (p *program) confirmRemoval(ctx context.Context, s *session, asking *prompting, id string) error {
	within, cancel := p.within(ctx)
	reply, err := s.AIKeys().Get(within, s.customer, s.project, id)
	cancel()
	if err != nil || reply.Key.State == aikeysv1.KeyStateRevoked {
		return err
	}
	k := &reply.Key
	what := "the project's " + string(k.Provider) + " key"
	if k.UserScope {
		what = "your own " + string(k.Provider) + " key"
	}
	lastUse := "not used yet"
	if !k.LastUsedAt.IsZero() {
		lastUse = "last used " + since(k.LastUsedAt, time.Now())
	}
	return asking.confirm(ctx, fmt.Sprintf("Revoke %s %q (%s, %s)? It can't be undone.", what, k.Name, suffix(k), lastUse))
}

// remove revokes the key and waits for its receipt. Revoking again changes nothing and answers when there is news, so that
// is how it waits.
func (p *program) remove(ctx context.Context, s *session, id string, wait time.Duration) error {
	progress := p.newProgress()
	end := time.Now().Add(wait)
	var last *aikeysv1.Receipt
	for {
		asked := time.Now()
		held := min(max(0, time.Until(end)), progress.every()).Truncate(time.Millisecond)
		reply, err := p.revoke(ctx, s, id, held)
		if err != nil {
			progress.end()
			if last == nil {
				return uncertain(ctx, err, "It may have been revoked all the same. Running this again is safe.")
			}
			return &pendingError{id: id, receipt: *last, cause: err}
		}
		last = &reply.Receipt
		if last.State == aikeysv1.ReceiptStateComplete || time.Until(end) < time.Millisecond {
			progress.end()
			return p.showReceipt(s, id, last, wait > 0)
		}
		progress.show(last)
		pause(ctx, min(refresh, time.Until(end))-time.Since(asked)) // a service that does not hold its answers
	}
}

// showReceipt prints the receipt. One that was waited for and is pending is an error.
func (p *program) showReceipt(s *session, id string, r *aikeysv1.Receipt, waited bool) error {
	err := p.show(s, func() error { return p.printReceipt(id, r) })
	if err == nil && waited && r.State != aikeysv1.ReceiptStateComplete {
		return &pendingError{id: id, receipt: *r}
	}
	return err
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (p *program) revoke(ctx context.Context, s *session, id string, held time.Duration) (*aikeysv1.RevokeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, p.flags.timeout+held)
	defer cancel()
	calls := s.AIKeys()
	if held > 0 {
		calls = calls.With(agentrouter.Wait(held))
	}
	return calls.Revoke(ctx, s.customer, s.project, id)
}

func (p *program) printReceipt(id string, r *aikeysv1.Receipt) error {
	now := time.Now()
	return p.printDetails([]detail{
		{"ID", cell{id, plain}},
		{"State", cell{string(aikeysv1.KeyStateRevoked), red}},
		{"Revoked", cell{stamp(r.RevokedAt, now) + " by " + r.RevokedBy, plain}},
		{"Receipt", receiptCell(r, now)},
	})
}
