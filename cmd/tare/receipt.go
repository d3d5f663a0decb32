package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/clipperhouse/displaywidth"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// receiptCell says how far a revocation has come.
func receiptCell(r *aikeysv1.Receipt, now time.Time) cell {
	if r.State == aikeysv1.ReceiptStateComplete {
		if r.DataPlanes == 0 {
			return cell{"complete: no data plane had keys", green}
		}
		text := "complete: " + confirmed(r)
		if r.Acknowledged < r.DataPlanes {
			text += ", the rest are out of their leases"
		}
		return cell{text, green}
	}
	text := "pending: " + confirmed(r)
	if !r.CompleteBy.IsZero() {
		by := since(r.CompleteBy, now)
		if r.CompleteBy.Sub(now) <= time.Second {
			by = "in a second"
		}
		text += ", the rest " + by + " at the latest"
	}
	return cell{text, yellow}
}

func confirmed(r *aikeysv1.Receipt) string {
	text := fmt.Sprintf("%d of %d data planes confirmed", r.Acknowledged, r.DataPlanes)
	if r.SlowestMs != nil {
		text += fmt.Sprintf(", slowest %d ms", *r.SlowestMs)
	}
	return text
}

// pendingError is a key that is revoked, while data planes have yet to confirm.
type pendingError struct {
	id      string
	receipt aikeysv1.Receipt
	cause   error // why it could not be followed any longer; nil when the time to wait was over
}

// Error says how far it has come.
func (e *pendingError) Error() string {
	text := "the key is revoked, and its receipt is pending: " + confirmed(&e.receipt)
	if e.cause != nil && !errors.Is(e.cause, context.Canceled) {
		text += "; the service did not say more"
	}
	return text
}

func (e *pendingError) hints() []string {
	hints := []string{"See how far it has come: tare api byok get " + e.id}
	if by := e.receipt.CompleteBy; !by.IsZero() {
		hints = append(hints, "A data plane that does not confirm stops using it by "+by.UTC().Format("15:04:05 UTC")+".")
	}
	return hints
}

// progress shows on a terminal how far a revocation has come, in a line that is written again and again.
type progress struct {
	to    io.Writer // nil where nobody looks
	paint painter
	shown bool
	begun time.Time
}

func (p *program) newProgress() *progress {
	shown := &progress{paint: p.painter(p.Stderr), begun: time.Now()}
	if terminal(p.Stderr) != nil && !p.dumb() {
		shown.to = p.Stderr
	}
	return shown
}

// every is how long to wait for news at a time.
func (g *progress) every() time.Duration {
	if g.to == nil {
		return mostHeld
	}
	return refresh
}

func (g *progress) show(r *aikeysv1.Receipt) {
	if g.to == nil {
		return
	}
	g.shown = true
	text := fmt.Sprintf("Revoked, and waiting: %s (%.1f s)", confirmed(r), time.Since(g.begun).Seconds())
	if columns := width(g.to); columns > 0 { // a line that goes on below can't be taken back
		text = displaywidth.TruncateString(text, columns-1, "…")
	}
	_, _ = io.WriteString(g.to, "\r\x1b[K"+g.paint(yellow, text)) // it is only for the eye
}

// end takes the line away.
func (g *progress) end() {
	if g.shown {
		_, _ = io.WriteString(g.to, "\r\x1b[K")
	}
}
