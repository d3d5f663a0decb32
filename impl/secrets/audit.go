package secrets

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/agentrouter/aikeys/internal/identity"
	"github.com/agentrouter/aikeys/sealer"
)

// Audit writes one line of JSON for each open that reaches the namespace's keys, for each that the client is not allowed to do, and
// for each change of the keys themselves. A line holds ids and fixed words, never a secret.
type Audit struct{ lines slog.Handler }

// NewAudit returns an Audit that writes each line with one Write, whose error refuses the open.
func NewAudit(to io.Writer) *Audit { return &Audit{slog.NewJSONHandler(to, nil)} }

// The outcomes that are not the slug of a problem.
const (
	outcomeOpened = "opened"
	outcomeFailed = "failed"
)

// opened records an open that was attempted.
func (a *Audit) opened(ctx context.Context, requestID string, client Client, item sealer.Item, outcome string) error {
	kekID, _ := sealer.KEKIDOf(item.Envelope) // empty if the bytes are not an envelope
	b := item.Binding
	return a.write(ctx, "open",
		slog.String("client", client.Name), slog.String("namespace", client.Namespace),
		slog.String("customer_id", b.CustomerID), slog.String("project_id", b.ProjectID), slog.String("key_id", b.KeyID),
		slog.String("provider", b.Provider), slog.Uint64("version", uint64(b.Version)), slog.String("kek_id", kekID),
		slog.String("outcome", outcome), slog.String("request_id", requestID))
}

// refused records an open that the client is not allowed to do. Its body was not read.
func (a *Audit) refused(ctx context.Context, client Client, identities []identity.Identity, requestID string) error {
	names := make([]string, len(identities))
	for i, identity := range identities {
		names[i] = identity.String()
	}
	return a.write(ctx, "open", slog.String("client", client.Name), slog.String("namespace", client.Namespace), slog.Any("peer", names),
		slog.String("outcome", "client-not-allowed"), slog.String("request_id", requestID))
}

// KeysChanged records that an operator's command changed the key-encryption keys of a namespace.
func (a *Audit) KeysChanged(ctx context.Context, operator, command, namespace, id string, before, after []sealer.KEK) error {
	states := func(name string, keks []sealer.KEK) slog.Attr {
		attrs := make([]any, len(keks))
		for i, kek := range keks {
			attrs[i] = slog.String(kek.ID, string(kek.State))
		}
		return slog.Group(name, attrs...)
	}
	return a.write(ctx, "keys", slog.String("operator", operator), slog.String("command", command), slog.String("namespace", namespace),
		slog.String("kek_id", id), states("before", before), states("after", after))
}

func (a *Audit) write(ctx context.Context, what string, attrs ...slog.Attr) error {
	line := slog.NewRecord(time.Now(), slog.LevelInfo, what, 0)
	line.AddAttrs(attrs...)
	if err := a.lines.Handle(ctx, line); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
