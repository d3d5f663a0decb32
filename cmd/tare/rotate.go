package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// activation says when a new version serves.
type activation string

const (
	activateVerified activation = "verified" // once a test has shown that its secret is valid
	activateNow      activation = "now"
	activateManual   activation = "manual"
)

// rotateOptions are the flags of "rotate".
type rotateOptions struct {
	secretFile, expires, idempotencyKey string
	activate                            activation
	overlap                             time.Duration
	wait                                *time.Duration
	ifMatch                             *string
}

func (p *program) rotateCommand() *cobra.Command {
	o := rotateOptions{activate: activateVerified, overlap: 15 * time.Minute}
	cmd := &cobra.Command{
		Use:   "rotate <key>",
		Short: "Give a key another secret, and wait until every data plane serves it",
		Long: `Gives a key another secret, as its next version. The key keeps its id, name and callers, and no request fails.

The service first tests the secret at its provider. If it is valid, the version serves; if the test has no result, the
version stays pending: see "activate". With --activate now it serves at once, untested; with --activate manual it stays
pending. The replaced version is kept for --overlap, so that "rollback" can bring it back; the service does that by itself
if the provider refuses the new one. If the old secret has leaked, use --overlap 0s.

tare waits for the receipt, which is complete when all data planes serve the new version. Then you may delete the old
secret at the provider. A rollback needs the old secret there: with --activate now, delete it only after the overlap. If
the receipt is not complete within --wait, the exit code is 8; "versions" shows it.`,
		Example: `  tare api byok rotate byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok rotate byok_01M83VVAHV8M2T5K7N9R4W1XYZ --secret-file new.key --expires 2099-06-30
  tare api byok rotate byok_01M83VVAHV8M2T5K7N9R4W1XYZ --activate now --overlap 0s`,
	}
	flags := cmd.Flags()
	flags.StringVar(&o.secretFile, "secret-file", "", "the `file` with the new secret; - means standard input")
	addChoice(flags, cmd, &o.activate, "activate", "", "when the new version serves", activateVerified, activateNow, activateManual)
	flags.Var(&durationFlag{target: &o.overlap}, "overlap", "how long to keep the replaced version; 0s destroys it at once")
	flags.StringVar(&o.expires, "expires", "", "stop serving at this `time`: a day in UTC, such as 2099-06-30, a time, such as 2099-06-30T09:00:00Z, or never")
	flags.StringVar(&o.idempotencyKey, "idempotency-key", "", "any `value`; repeating the command with the same value within 24 hours is safe")
	o.wait, o.ifMatch = addReceiptWait(cmd), addIfMatch(cmd)
	completeNothingFor(cmd, "overlap", "expires", "idempotency-key")
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
		return p.rotateKey(ctx, s, id, o)
	})
}

// rotateKey reads the secret, rotates the key and waits for the receipt.
func (p *program) rotateKey(ctx context.Context, s *session, id string, o rotateOptions) error {
	options := []agentrouter.RotateOption{agentrouter.Overlap(o.overlap)}
	switch o.activate {
	case activateVerified:
	case activateNow:
		options = append(options, agentrouter.ActivateNow())
	case activateManual:
		options = append(options, agentrouter.ActivateLater())
	}
	if o.overlap%time.Second != 0 {
		return cli.Usagef("--overlap is a whole number of seconds, minutes or hours")
	}
	switch at, err := parseTime("--expires", o.expires); {
	case o.expires == never:
		options = append(options, agentrouter.NoExpiry())
	case err != nil:
		return err
	case !at.IsZero():
		options = append(options, agentrouter.NewExpiry(at))
	}
	text, err := p.readSecret(ctx, secretSource{file: o.secretFile, flag: secretFileFlag, what: "secret", question: "New secret of the key (not shown):"})
	if err != nil {
		return err
	}
	calls := s.AIKeys().With(
		when(*o.ifMatch != "", agentrouter.IfMatch(*o.ifMatch)), when(o.idempotencyKey != "", agentrouter.IdempotencyKey(o.idempotencyKey)),
	)
	return p.awaitRotation(ctx, s, id, *o.wait, func(ctx context.Context) (*aikeysv1.RotateResponse, error) {
		return calls.Rotate(ctx, s.customer, s.project, id, text.Reveal(), options...)
	})
}

// awaitRotation makes a change once and waits for its receipt.
func (p *program) awaitRotation(
	ctx context.Context, s *session, id string, wait time.Duration, change func(context.Context) (*aikeysv1.RotateResponse, error),
) error {
	var reply *aikeysv1.RotateResponse
	return p.awaitStop(ctx, stop{id: id, done: rotatedDone, wait: wait, request: func(ctx context.Context, held time.Duration) (*aikeysv1.Receipt, func() error, error) {
		if reply == nil {
			ctx, cancel := p.withTimeout(ctx)
			defer cancel()
			changed, err := change(ctx)
			if err != nil {
				return nil, nil, err
			}
			reply = changed
		} else {
			current, err := p.getVersions(ctx, s, id, held)
			if err != nil {
				return nil, nil, err
			}
			reply.Receipt = current.Receipt
		}
		return rotationReceipt(reply.Receipt), func() error {
			return p.printResponse(s, func() error { return p.printRotation(reply) })
		}, nil
	}})
}

// rotatedDone is the stop.done of a rotation or rollback.
const rotatedDone = "rotated"

// rotationReceipt returns the receipt of a rotation as a Receipt. A pending version has none; for it, the Receipt is complete.
func rotationReceipt(r *aikeysv1.RotationReceipt) *aikeysv1.Receipt {
	if r == nil {
		return &aikeysv1.Receipt{State: aikeysv1.ReceiptStateComplete}
	}
	return &aikeysv1.Receipt{
		State: r.State, RevokedAt: r.RotatedAt, RevokedBy: r.RotatedBy, DataPlanes: r.DataPlanes, Acknowledged: r.Acknowledged,
		SlowestMs: r.SlowestMs, CompleteBy: r.CompleteBy, InFlight: r.InFlight, InFlightFrom: r.InFlightFrom, Acknowledgements: r.Acknowledgements, Planes: r.Planes,
	}
}

func (p *program) printRotation(reply *aikeysv1.RotateResponse) error {
	if err := p.printKey(&reply.Key); err != nil {
		return err
	}
	now := time.Now()
	v := &reply.Version
	details := []detail{{"Version", cell{strconv.Itoa(v.Version) + " is " + string(v.State), plain}}, {"Test", verificationCell(v.Verification, now)}}
	if v.State == aikeysv1.VersionStatePending {
		details = append(details, detail{"Next", cell{fmt.Sprintf("tare api byok activate %s %d", reply.Key.ID, v.Version), plain}})
	}
	details = append(details, warningDetails(reply.Warnings)...)
	return p.printDetails(append(details, p.rotationDetails(reply.Receipt, now)...))
}

// rotationDetails returns the receipt of a rotation, and whether the old secret may be deleted.
func (p *program) rotationDetails(r *aikeysv1.RotationReceipt, now time.Time) []detail {
	if r == nil {
		return nil
	}
	old := cell{fmt.Sprintf("version %d may still be in use: do not delete it at the provider yet", r.ReplacedVersion), yellow}
	if r.OldVersionSafeToDelete {
		old = cell{fmt.Sprintf("version %d may be deleted at the provider", r.ReplacedVersion), green}
	}
	return append(receiptDetails(rotationReceipt(r), now), detail{"Old secret", old})
}

func (p *program) versionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "versions <key>",
		Short: "List a key's versions, and whether the old secret may be deleted",
		Long: `Lists the versions of a key, newest first, and the receipt of the last rotation or rollback, for which --wait waits: how
many data planes serve the active version.`,
		Example: `  tare api byok versions byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok versions byok_01M83VVAHV8M2T5K7N9R4W1XYZ --wait 10s`,
	}
	wait := addPendingWait(cmd)
	return p.keyCommand(cmd, "", func(ctx context.Context, s *session, id string) error {
		reply, err := p.getVersions(ctx, s, id, *wait)
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printVersions(reply) })
	})
}

// getVersions returns a key's versions. While the receipt is pending, the service may hold its response for the time
// held.
func (p *program) getVersions(ctx context.Context, s *session, id string, held time.Duration) (*aikeysv1.VersionsResponse, error) {
	ctx, cancel, wait := p.withHold(ctx, held)
	defer cancel()
	return s.AIKeys().With(wait).Versions(ctx, s.customer, s.project, id)
}

func (p *program) printVersions(reply *aikeysv1.VersionsResponse) error {
	now := time.Now()
	t := &table{columns: []column{
		{head: "VERSION"}, {head: "STATE"}, {head: "SECRET"}, {head: "CREATED", dropRank: 2}, {head: "BY", dropRank: 3}, {head: "UNTIL", dropRank: 1},
	}}
	for _, v := range reply.Versions {
		look, until := plain, ""
		switch v.State {
		case aikeysv1.VersionStateActive:
			look = green
		case aikeysv1.VersionStateRetiring:
			until = relativeTime(v.RetiresAt, now)
		case aikeysv1.VersionStateDestroyed:
			look, until = dim, relativeTime(v.DestroyedAt, now)
		case aikeysv1.VersionStatePending:
		}
		t.addRow(cell{strconv.Itoa(v.Version), look}, cell{string(v.State), look}, cell{formatSuffix(&aikeysv1.Key{DisplaySuffix: v.DisplaySuffix}), look},
			cell{relativeTime(v.CreatedAt, now), look}, cell{v.CreatedBy, look}, cell{until, look})
	}
	if err := p.printTable(t); err != nil || reply.Receipt == nil {
		return err
	}
	return p.printDetails(p.rotationDetails(reply.Receipt, now))
}

// keyVersionCommand makes cmd run on the version of a key that its two arguments name.
func (p *program) keyVersionCommand(cmd *cobra.Command, run func(ctx context.Context, s *session, id string, version int) error) *cobra.Command {
	cmd.Args = exactArguments(2, "two arguments, the key's id or name and the version's number")
	cmd.ValidArgsFunction = completeFirst(p.completeOnline(completeKeys(aikeysv1.KeyStateActive)))
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		version, err := strconv.Atoi(args[1])
		if err != nil || version < 1 {
			return cli.Usagef("a version is a number from 1; tare api byok versions shows them")
		}
		id, err := p.findKey(ctx, s, args[0])
		if err != nil {
			return err
		}
		return run(ctx, s, id, version)
	})
	return cmd
}

func (p *program) activateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "activate <key> <version>",
		Short: "Activate a pending version of a key, or an earlier one again",
		Long: `Activates a pending version of a key, without a test, or a retiring one again. tare waits for the receipt, as "rotate"
does.`,
		Example: "  tare api byok activate byok_01M83VVAHV8M2T5K7N9R4W1XYZ 2",
	}
	wait, ifMatch := addReceiptWait(cmd), addIfMatch(cmd)
	return p.keyVersionCommand(cmd, func(ctx context.Context, s *session, id string, version int) error {
		return p.awaitRotation(ctx, s, id, *wait, func(ctx context.Context) (*aikeysv1.RotateResponse, error) {
			calls := s.AIKeys().With(when(*ifMatch != "", agentrouter.IfMatch(*ifMatch)))
			return calls.ActivateVersion(ctx, s.customer, s.project, id, version)
		})
	})
}

func (p *program) rollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback <key>",
		Short: "Undo the last rotation of a key",
		Long: `Activates the version of a key that the active one replaced, as long as it is retiring. tare waits for the receipt, as
"rotate" does. To undo the rollback, activate the other version.`,
		Example: "  tare api byok rollback byok_01M83VVAHV8M2T5K7N9R4W1XYZ",
	}
	wait, ifMatch := addReceiptWait(cmd), addIfMatch(cmd)
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
		return p.awaitRotation(ctx, s, id, *wait, func(ctx context.Context) (*aikeysv1.RotateResponse, error) {
			return s.AIKeys().With(when(*ifMatch != "", agentrouter.IfMatch(*ifMatch))).Rollback(ctx, s.customer, s.project, id)
		})
	})
}

func (p *program) destroyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "destroy <key> <version>",
		Short: "Destroy a version of a key that is not active",
		Long: `Destroys a pending or retiring version of a key, so that no rollback can bring it back. Do this before you delete its
secret at the provider. tare asks for confirmation. Without a terminal, it needs --yes.`,
		Example: "  tare api byok destroy byok_01M83VVAHV8M2T5K7N9R4W1XYZ 1 --yes",
	}
	p.addYes(cmd)
	ifMatch := addIfMatch(cmd)
	return p.keyVersionCommand(cmd, func(ctx context.Context, s *session, id string, version int) error {
		if err := p.confirm(ctx, fmt.Sprintf("Destroy version %d of %s? It can't be undone.", version, id)); err != nil {
			return err
		}
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		calls := s.AIKeys().With(when(*ifMatch != "", agentrouter.IfMatch(*ifMatch)))
		reply, err := calls.DestroyVersion(ctx, s.customer, s.project, id, version)
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error {
			return p.printVersions(&aikeysv1.VersionsResponse{Versions: []aikeysv1.KeyVersion{reply.Version}})
		})
	})
}
