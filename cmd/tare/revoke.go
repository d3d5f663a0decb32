package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/clipperhouse/displaywidth"
	"github.com/spf13/cobra"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

const (
	maxHold          = 30 * time.Second       // how long the service holds a response at most
	progressInterval = 100 * time.Millisecond // how often the progress on a terminal changes
)

func (p *program) removeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove <key>", Aliases: []string{"revoke"},
		Short: "Revoke a key, and wait until every data plane has dropped it",
		Long: `Revokes a key permanently. No new request is served with it, and data planes that have it cached drop it within a
second. tare waits for the receipt, which is complete when all of them have confirmed. If it is not complete within
--wait, the exit code is 8, but the key is revoked all the same. Revoking again is safe, and shows the receipt.

tare asks for confirmation. Without a terminal, it needs --yes.`,
		Example: `  tare api byok remove byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok remove byok_01M83VVAHV8M2T5K7N9R4W1XYZ --yes --wait 30s`,
	}
	p.addYes(cmd)
	wait := addReceiptWait(cmd)
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
		if err := p.confirmRemoval(ctx, s, id); err != nil {
			return err
		}
		return p.removeKey(ctx, s, id, *wait)
	})
}

// addReceiptWait adds the flag --wait to a command that makes a change and waits for its receipt.
func addReceiptWait(cmd *cobra.Command) *time.Duration {
	wait := 5 * time.Second
	cmd.Flags().Var(&durationFlag{target: &wait}, "wait", "how long to wait for the receipt; with 0, tare does not wait, and the exit code is 0")
	completeNothingFor(cmd, "wait")
	return &wait
}

// addPendingWait adds the flag --wait to a command that shows a receipt.
func addPendingWait(cmd *cobra.Command) *time.Duration {
	wait := time.Duration(0)
	cmd.Flags().Var(&durationFlag{target: &wait}, "wait", "how long to wait for a pending receipt, at most 30s")
	completeNothingFor(cmd, "wait")
	return &wait
}

// confirmRemoval shows the key and asks, unless the key is revoked.
func (p *program) confirmRemoval(ctx context.Context, s *session, id string) error {
	if p.yes {
		return nil
	}
	reply, err := p.getKey(ctx, s, id, 0)
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
		lastUse = "last used " + relativeTime(k.LastUsedAt, time.Now())
	}
	return p.confirm(ctx, fmt.Sprintf("Revoke %s %q (%s, %s)? It can't be undone.", what, k.Name, formatSuffix(k), lastUse))
}

// removeKey revokes the key and waits for its receipt.
func (p *program) removeKey(ctx context.Context, s *session, id string, wait time.Duration) error {
	return p.awaitStop(ctx, stop{id: id, done: "revoked", wait: wait, request: func(ctx context.Context, held time.Duration) (*aikeysv1.Receipt, func() error, error) {
		ctx, cancel, wait := p.withHold(ctx, held)
		defer cancel()
		reply, err := s.AIKeys().With(wait).Revoke(ctx, s.customer, s.project, id)
		if err != nil {
			return nil, nil, err
		}
		return &reply.Receipt, func() error {
			return p.printResponse(s, func() error { return p.printReceipt(id, &reply.Receipt) })
		}, nil
	}})
}

// stop is a change that has a receipt: a key is revoked, disabled or rotated, or an API key is revoked.
type stop struct {
	id, done string // done is the participle for messages, such as "revoked"
	wait     time.Duration
	// request makes the change, and returns its receipt and a func that prints the response. The service may hold the response.
	request func(ctx context.Context, held time.Duration) (r *aikeysv1.Receipt, show func() error, err error)
}

// awaitStop makes a change and waits for its receipt. To wait, it calls s.request again: a repeated request changes
// nothing, and the service holds its response until the receipt is complete or the hold time is over. If the receipt is
// still pending after the wait, awaitStop returns a pendingError.
func (p *program) awaitStop(ctx context.Context, s stop) error {
	progress := p.newProgress(s.done)
	end := time.Now().Add(s.wait)
	var last *aikeysv1.Receipt
	for {
		asked := time.Now()
		held := min(max(0, time.Until(end)), progress.holdTime())
		receipt, show, err := s.request(ctx, held)
		if err != nil {
			progress.clear()
			if last == nil {
				return hintIfSent(ctx, err, "The key may have been "+s.done+" anyway. Running this again is safe.")
			}
			return &pendingError{id: s.id, done: s.done, receipt: *last, cause: err}
		}
		last = receipt
		if last.State == aikeysv1.ReceiptStateComplete || time.Until(end) < time.Millisecond {
			progress.clear()
			err := show()
			if err == nil && s.wait > 0 && last.State != aikeysv1.ReceiptStateComplete {
				return &pendingError{id: s.id, done: s.done, receipt: *last}
			}
			return err
		}
		progress.show(last)
		sleep(ctx, min(progressInterval, time.Until(end))-time.Since(asked)) // in case the service does not hold responses
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (p *program) printReceipt(id string, r *aikeysv1.Receipt) error {
	now := time.Now()
	return p.printDetails(append([]detail{
		{"ID", cell{id, plain}},
		{"State", cell{string(aikeysv1.KeyStateRevoked), red}},
		{"Revoked", cell{formatTimeBy(r.RevokedAt, r.RevokedBy, now), plain}},
	}, receiptDetails(r, now)...))
}

// receiptDetails returns nothing for nil.
func receiptDetails(r *aikeysv1.Receipt, now time.Time) []detail {
	if r == nil {
		return nil
	}
	details := []detail{{"Receipt", receiptCell(r, now)}}
	for i, plane := range r.Planes[:min(len(r.Planes), maxNamed)] {
		details = append(details, detail{map[bool]string{true: "Data planes"}[i == 0], planeCell(plane)})
	}
	if more := len(r.Planes) - maxNamed; more > 0 {
		details = append(details, detail{"", cell{fmt.Sprintf("and %d more: -o json shows them", more), dim}})
	}
	if r.Acknowledged > 0 {
		details = append(details, detail{"In flight", cell{formatInFlight(r), plain}})
	}
	return details
}

func planeCell(plane aikeysv1.ReceiptPlane) cell {
	switch plane.State {
	case aikeysv1.ReceiptPlaneStateWaiting:
		return cell{plane.Name + ": waiting", yellow}
	case aikeysv1.ReceiptPlaneStateLeaseExpired:
		return cell{plane.Name + ": did not confirm, its lease has expired", yellow}
	case aikeysv1.ReceiptPlaneStateAcknowledged:
		if plane.Ms != nil {
			return cell{fmt.Sprintf("%s: confirmed after %d ms", plane.Name, *plane.Ms), plain}
		}
		return cell{plane.Name + ": confirmed", plain}
	}
	return cell{plane.Name + ": " + string(plane.State), plain} // a state of a later release
}

// maxNamed is how many data planes are shown by name.
const maxNamed = 8

// formatInFlight says how many requests were in progress when data planes dropped the key.
func formatInFlight(r *aikeysv1.Receipt) string {
	if r.InFlight == nil {
		return "unknown: no data plane said how many requests it was serving"
	}
	text := fmt.Sprintf("%d requests when the key was dropped", *r.InFlight)
	if *r.InFlight == 1 {
		text = "1 request when the key was dropped"
	}
	if unknown := r.Acknowledged - r.InFlightFrom; unknown > 0 {
		planes := "data planes"
		if unknown == 1 {
			planes = "data plane"
		}
		text += fmt.Sprintf(", and an unknown number at %d %s", unknown, planes)
	}
	var named []string
	for _, d := range r.Acknowledgements {
		count := "unknown"
		if d.InFlight != nil {
			count = strconv.Itoa(*d.InFlight)
		}
		named = append(named, d.DataPlane+": "+count)
	}
	if len(named) > maxNamed {
		named = append(named[:maxNamed], "…")
	}
	if len(named) > 0 {
		text += " (" + strings.Join(named, ", ") + ")"
	}
	return text
}

func receiptCell(r *aikeysv1.Receipt, now time.Time) cell {
	if r.State == aikeysv1.ReceiptStateComplete {
		if r.DataPlanes == 0 {
			return cell{"complete: no data plane had keys", green}
		}
		text := "complete: " + formatConfirmed(r)
		if r.Acknowledged < r.DataPlanes {
			text += ", the leases of the rest have expired"
		}
		return cell{text, green}
	}
	text := "pending: " + formatConfirmed(r)
	if !r.CompleteBy.IsZero() {
		by := relativeTime(r.CompleteBy, now)
		if r.CompleteBy.Sub(now) <= time.Second {
			by = "in a second"
		}
		text += ", the rest " + by + " at the latest"
	}
	return cell{text, yellow}
}

func formatConfirmed(r *aikeysv1.Receipt) string {
	text := fmt.Sprintf("%d of %d data planes confirmed", r.Acknowledged, r.DataPlanes)
	if r.SlowestMs != nil {
		text += fmt.Sprintf(", slowest %d ms", *r.SlowestMs)
	}
	return text
}

// removedDone is the stop.done of a member's removal.
const removedDone = "removed"

// pendingError means that the change that done names is made, but not every data plane has confirmed it.
type pendingError struct {
	id      string
	done    string
	receipt aikeysv1.Receipt
	cause   error // why tare stopped waiting; nil if it ran out of time
}

// Error implements error.
func (e *pendingError) Error() string {
	what := "the key is "
	if e.done == removedDone {
		what = e.id + " is "
	}
	text := what + e.done + ", and its receipt is pending: " + formatConfirmed(&e.receipt)
	if e.cause != nil && !errors.Is(e.cause, context.Canceled) {
		text += "; then the service stopped answering"
	}
	return text
}

func (e *pendingError) hints() []string {
	command := "get"
	if e.done == rotatedDone {
		command = "versions"
	}
	hints := []string{"Check the receipt with: tare api byok " + command + " " + e.id}
	if e.done == removedDone {
		hints = nil
	} else if !strings.HasPrefix(e.id, keyPrefix) {
		hints = []string{"Check the receipt with: tare api tokens revoke " + e.id}
	}
	if by := e.receipt.CompleteBy; !by.IsZero() {
		hints = append(hints, "A data plane that does not confirm stops using it by "+by.UTC().Format("15:04:05 UTC")+".")
	}
	return hints
}

// progress shows on a terminal how many data planes have confirmed. It overwrites one line.
type progress struct {
	out     io.Writer // nil if standard error is no terminal
	paint   painter
	shown   bool
	started time.Time
	done    string
}

func (p *program) newProgress(done string) *progress {
	shown := &progress{done: done, paint: p.painter(p.Stderr), started: time.Now()}
	if terminalFile(p.Stderr) != nil && !p.isDumbTerminal() {
		shown.out = p.Stderr
	}
	return shown
}

// holdTime returns how long the service may hold a response: on a terminal, until the line is due for a change.
func (g *progress) holdTime() time.Duration {
	if g.out == nil {
		return maxHold
	}
	return progressInterval
}

func (g *progress) show(r *aikeysv1.Receipt) {
	if g.out == nil {
		return
	}
	g.shown = true
	text := fmt.Sprintf("%s, and waiting: %s (%.1f s)", strings.ToUpper(g.done[:1])+g.done[1:], formatConfirmed(r), time.Since(g.started).Seconds())
	if columns := terminalWidth(g.out); columns > 0 { // a line that wraps can't be overwritten
		text = displaywidth.TruncateString(text, columns-1, "…")
	}
	_, _ = io.WriteString(g.out, "\r\x1b[K"+g.paint(yellow, text)) // progress may be lost
}

// clear removes the line.
func (g *progress) clear() {
	if g.shown {
		_, _ = io.WriteString(g.out, "\r\x1b[K")
	}
}
