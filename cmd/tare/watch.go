package main

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) watchCommand() *cobra.Command {
	every := 2 * time.Second
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show changes of the keys' states as they happen",
		Long: `Shows the active keys, and then a line for each key that is registered, disabled, enabled, revoked, refused by its
provider or accepted again, until you press Ctrl-C. While the service does not answer, tare waits. With -o json or -o yaml
it prints each change as a document.`,
		Example: `  tare api byok watch
  tare api byok watch --every 500ms --jq '.name + " is " + .to'`,
		Args: cli.NoArguments("--every"),
	}
	cmd.Flags().Var(&durationFlag{&every, 100 * time.Millisecond}, "every", "how often to ask the service")
	completeNothingFor(cmd, "every")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		reply, err := p.listAll(ctx, s)
		if err != nil {
			return err
		}
		shown := watchedStates(reply.Keys)
		if p.isForPeople() {
			active := slices.DeleteFunc(reply.Keys, func(k aikeysv1.Key) bool { return k.State == aikeysv1.KeyStateRevoked })
			if err := p.printKeys(active, false); err != nil {
				return err
			}
		}
		return p.watch(ctx, s, every, shown)
	})
	return cmd
}

// watch prints changes until ctx ends. It begins with the changes since the states shown.
func (p *program) watch(ctx context.Context, s *session, every time.Duration, shown map[string]keyChange) error {
	isWaiting := false
	for {
		sleep(ctx, every)
		if ctx.Err() != nil {
			return errStopped
		}
		reply, err := p.listAll(ctx, s)
		if err != nil && (ctx.Err() != nil || p.diagnose(ctx, err).code != exitUnavailable) {
			return err
		}
		if wasWaiting := isWaiting; wasWaiting != (err != nil) {
			isWaiting = !wasWaiting
			p.printNote(map[bool]string{true: "The service does not answer. Waiting for it.", false: "The service answers again."}[isWaiting])
		}
		if err != nil {
			continue
		}
		found := watchedStates(reply.Keys)
		for _, id := range slices.Sorted(maps.Keys(found)) {
			change := found[id]
			if change.From = shown[id].To; change.From == change.To {
				continue
			}
			if isStopped(change) {
				if reply, err := p.getKey(ctx, s, id, every); err == nil {
					change.Planes = planesOf(&reply.Key)
				}
			}
			if err := p.printChange(change); err != nil {
				return err
			}
		}
		shown = found
	}
}

func (p *program) listAll(ctx context.Context, s *session) (*aikeysv1.ListResponse, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	return s.AIKeys().List(ctx, s.customer, s.project)
}

// keyChange is a change of a key's state.
type keyChange struct {
	At       time.Time `json:"at"`
	ID       string    `json:"id"`
	Provider string    `json:"provider"`
	Name     string    `json:"name"`
	From     string    `json:"from"` // empty for a new key
	To       string    `json:"to"`
	// Planes says which data planes have dropped the key.
	Planes []aikeysv1.ReceiptPlane `json:"planes,omitempty"`
}

// isStopped reports whether a change has a receipt.
func isStopped(c keyChange) bool {
	return c.To == string(aikeysv1.KeyStateRevoked) || c.To == string(aikeysv1.NotServingReasonDisabled)
}

// planesOf returns the data planes of a key's receipt.
func planesOf(k *aikeysv1.Key) []aikeysv1.ReceiptPlane {
	if k.Receipt != nil {
		return k.Receipt.Planes
	}
	return receiptOf(k).Planes
}

// watchedStates returns the states of keys by their ids, as changes from nothing.
func watchedStates(keys []aikeysv1.Key) map[string]keyChange {
	states := make(map[string]keyChange, len(keys))
	now := time.Now().UTC().Truncate(time.Millisecond)
	for i := range keys {
		k := &keys[i]
		state := formatState(k)
		if isFailing(k) {
			state += ", refused by its provider with " + formatRefusal(k.LastFailure)
		}
		states[k.ID] = keyChange{At: now, ID: k.ID, Provider: string(k.Provider), Name: k.Name, To: state}
	}
	return states
}

func (p *program) printChange(c keyChange) error {
	if !p.isForPeople() {
		document, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return p.printDocument(document)
	}
	text := c.At.Format("15:04:05 UTC") + "  " + c.Provider + "/" + c.Name + "  "
	if c.From != "" {
		text += c.From + " → "
	}
	if err := p.printLine(text + c.To); err != nil {
		return err
	}
	for _, plane := range c.Planes[:min(len(c.Planes), maxNamed)] {
		if err := p.printLine("              " + planeCell(plane).text); err != nil {
			return err
		}
	}
	return nil
}
