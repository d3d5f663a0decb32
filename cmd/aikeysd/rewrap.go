package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/keysetcheck"
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
)

// exitUnreadable is the exit code of a re-wrap that is done except for keys that can't be read.
const exitUnreadable = 3

const (
	// rewrapRate is the default of --rate, in keys a second. In measurements, reads kept most of their speed at
	// this rate while the database and the service shared two processors.
	rewrapRate = 2000
	// rewrapConns is the size of the pool on Postgres. The job uses one connection at a time.
	rewrapConns = "2"
	// rewrapSettle is longer than any sealer takes to notice a new primary KEK. Until its sealer notices the new KEK, a
	// running service still seals under the old one.
	rewrapSettle = 1500 * time.Millisecond
	// dryRunSample is the maximum number of envelopes that a dry run tries under each KEK.
	dryRunSample = 100
)

var errUnreadableKeys = errors.New("some keys can't be read, and were left as they are; see the list")

func (p *program) rewrapCommand() *cobra.Command {
	var (
		rate   int
		dryRun bool
	)
	a := p.newAdmin()
	a.settings = append(databaseSettings(), "sealer", "sealer-old", "sealer-cert", "sealer-key", "sealer-ca")
	a.cfg.Of("db-max-conns").Preset(rewrapConns)
	cmd := &cobra.Command{
		Use:     "rewrap",
		Short:   "Put all keys under the primary key-encryption key, while the service runs",
		GroupID: groupOperate,
		Long: `Puts every key, active or revoked, and the canary under the primary key-encryption key (KEK). Run it after another KEK
has become primary, or to move all secrets to another sealer. To move them, --sealer is the new sealer and --sealer-old
the old one, and every aikeysd must run with both already. If no secrets move to another sealer, the command opens only
a sample of them. With secrets-svc, it needs the rights "rewrap" and "status", and to move secrets there also "seal" and
"open".

The service may run at the same time. The keys' rows say what is still to be done, so you can stop or kill the command
at any time and run it again, and several may run at once. Each new envelope is verified before it is written, and
written only if the key has not changed since. Keys that can't be read are left unchanged and listed at the end.

Exit codes: 0 everything is under the primary key-encryption key, 1 it failed or was stopped, 2 the command line or a
setting is wrong, 3 everything is done except for keys that can't be read.`,
		Example: `  aikeysd rewrap --dry-run
  aikeysd rewrap --rate 500
  aikeysd rewrap --sealer secrets+unix:/run/secrets-svc/api.sock --sealer-old local:/etc/aikeys/keyset.json`,
	}
	cmd.Flags().IntVar(&rate, "rate", rewrapRate, "re-wrap at most this many keys each second; 0 sets no limit")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false,
		fmt.Sprintf("write nothing: count what would be done, and try up to %d keys under each key-encryption key", dryRunSample))
	return a.command(cmd, func() error {
		if rate < 0 {
			return cli.Usagef("--rate: must be a whole number of keys a second, or 0 for no limit")
		}
		return nil
	}, func(ctx context.Context) error {
		return a.withSealer(func(s sealer.Sealer) error {
			job := rewrap.Config{Store: a.store, Sealer: s, Rate: float64(rate)}
			if dryRun {
				return a.rewrapDryRun(ctx, job)
			}
			return a.rewrap(ctx, job)
		})
	})
}

// withSealer opens the sealer and calls use. If the sealer's keyset file is missing, withSealer returns an error,
// because opening the sealer would create the file.
func (a *admin) withSealer(use func(sealer.Sealer) error) error {
	if path, isFile := a.cfg.keysetPath(); isFile {
		if missing, err := fileMissing(path); err != nil || missing {
			return errors.Join(err, fmt.Errorf("there is no keyset at %s; \"aikeysd serve\" makes one", absolute(path)))
		}
	}
	var closers lifecycle.Closers
	opened, err := a.cfg.openSealer(cli.NewLogger(a.Stderr, cli.LogText, slog.LevelWarn.String()), &closers)
	if err == nil {
		err = unreachableSealer(a.cfg, use(opened))
	}
	return errors.Join(err, closers.Close())
}

func (a *admin) rewrap(ctx context.Context, job rewrap.Config) error {
	cfg := a.cfg
	if len(cfg.SealerOld) > 0 {
		a.Note("moving secrets to %s: every aikeysd must already run with it and with %s; an aikeysd without both can't open moved secrets",
			cfg.sealerName(), cfg.Of("sealer-old").Variable())
	}
	job.Settle = rewrapSettle
	progress := newRewrapProgress(a.Stderr)
	job.Report = progress.report
	result, err := a.runRecorded(ctx, job)
	progress.finish(result.Progress)
	if errors.Is(err, keysetcheck.ErrWrongKEK) {
		return fmt.Errorf("%w; check %s and %s; nothing was changed", err, cfg.Of("sealer").Variable(), cfg.Of("sealer-old").Variable())
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped after %s of %d; run it again to go on", formatKeys(result.Rewrapped), result.Total)
	}
	if err != nil {
		return fmt.Errorf("%w; %s of %d re-wrapped so far, and a second run goes on from there", err, formatKeys(result.Rewrapped), result.Total)
	}
	return a.printRewrapped(ctx, job, result)
}

// runRecorded runs a job, and records its start and its end in the system trail. If the job is killed, the trail has no end.
func (a *admin) runRecorded(ctx context.Context, job rewrap.Config) (rewrap.Result, error) {
	type state struct {
		Sealer     string `json:"sealer"`
		Outcome    string `json:"outcome,omitempty"`
		Primary    string `json:"primary,omitempty"`
		Rewrapped  int64  `json:"rewrapped"`
		Elsewhere  int64  `json:"elsewhere"`
		Unreadable int64  `json:"unreadable"`
	}
	start := models.SystemEvent{Type: models.EventRewrapStarted, After: models.StateInJSON(map[string]string{"sealer": a.cfg.sealerName()})}
	if err := a.store.RecordSystemEvent(ctx, start); err != nil {
		return rewrap.Result{}, err
	}
	result, err := rewrap.New(job).Run(ctx)
	end := state{a.cfg.sealerName(), "done", result.Primary, result.Rewrapped, result.Elsewhere, result.Progress.Unreadable}
	switch {
	case ctx.Err() != nil:
		end.Outcome = "stopped"
	case err != nil:
		end.Outcome = "failed"
	}
	lost := a.store.RecordSystemEvent(context.WithoutCancel(ctx), models.SystemEvent{Type: models.EventRewrapEnded, After: models.StateInJSON(end)})
	if lost != nil {
		err = errors.Join(err, fmt.Errorf("the end of the re-wrap is not in the system trail: %w", lost))
	}
	return result, err
}

// printRewrapped prints the result of a job that has reached its end.
func (p *program) printRewrapped(ctx context.Context, job rewrap.Config, result rewrap.Result) error {
	inspector, err := rewrap.NewInspector(ctx, job.Store, job.Sealer)
	if err != nil {
		return err
	}
	keks, err := inspector.Count(ctx)
	if err != nil {
		return err
	}
	what := "all that can be read is"
	if len(result.Unreadable) == 0 {
		what = "all keys are"
	}
	if result.Canary {
		what += ", and the canary is,"
	}
	if err := p.Say("re-wrapped %s; %s under %s now", formatKeys(result.Rewrapped), what, result.Primary); err != nil {
		return err
	}
	for _, u := range result.Unreadable { // the rows alone don't show that these can't be read
		for i := range keks {
			if keks[i].ID == u.KEKID && keks[i].OldKEK > 0 {
				keks[i].OldKEK--
				keks[i].Unreadable++
			}
		}
	}
	if err := (sealReport{KEKs: keks, Unreadable: result.Unreadable}).print(p, false); err != nil {
		return err
	}
	return p.requireReadable(result.Unreadable)
}

// requireReadable returns an error with its own exit code if there are keys that can't be read.
func (p *program) requireReadable(unreadable []rewrap.Unreadable) error {
	if len(unreadable) == 0 {
		return nil
	}
	p.exit = exitUnreadable
	return errUnreadableKeys
}

// oldKeys counts the keys that a re-wrap would move.
func oldKeys(keks []rewrap.KEKKeys) (n int64) {
	for _, kek := range keks {
		n += kek.OldKEK
	}
	return n
}

func (p *program) rewrapDryRun(ctx context.Context, job rewrap.Config) error {
	if err := rewrap.New(job).CheckKeyset(ctx); err != nil {
		return err
	}
	inspector, err := rewrap.NewInspector(ctx, job.Store, job.Sealer)
	if err != nil {
		return err
	}
	keks, err := inspector.Count(ctx)
	if err != nil {
		return err
	}
	tried, unreadable, err := inspector.Sample(ctx, dryRunSample)
	if err != nil {
		return err
	}
	canary, err := job.Store.Canary(ctx)
	if err != nil && !errors.Is(err, models.ErrNotFound) {
		return err
	}
	moves := formatKeys(oldKeys(keks))
	if err == nil && canary.KEKID != inspector.Primary() {
		moves += " and the canary"
	}
	if err := p.Say("a dry run, which writes nothing; %s would go under %s", moves, inspector.Primary()); err != nil {
		return err
	}
	table := p.NewTable("\nKEK", "STATE", "KEYS", "WOULD BE", "TRIED", "UNREADABLE")
	for _, kek := range keks {
		var sample rewrap.KEKKeys
		if i := slices.IndexFunc(tried, func(t rewrap.KEKKeys) bool { return t.ID == kek.ID }); i >= 0 {
			sample = tried[i]
		}
		would := "left as they are"
		switch {
		case kek.OldKEK > 0:
			would = "re-wrapped"
		case kek.Unreadable > 0:
			would = "skipped"
		}
		table.Row(kek.ID, string(kek.State), formatCount(kek.All()), would, formatCount(sample.All()), formatCount(sample.Unreadable))
	}
	if err := errors.Join(table.Flush(), (sealReport{Unreadable: unreadable}).printUnreadable(p)); err != nil {
		return err
	}
	return p.requireReadable(unreadable)
}

const (
	// barInterval is the least time between two updates of the progress bar. lineInterval is the least time between two
	// lines of progress, which replace the bar if there is no terminal.
	barInterval  = 100 * time.Millisecond
	lineInterval = 10 * time.Second
)

// rewrapProgress shows the progress of a re-wrap: as a bar on a terminal, and elsewhere as a line every ten seconds, which
// suits a log.
type rewrapProgress struct {
	to    io.Writer
	bar   *progressbar.ProgressBar // nil where there is no terminal
	shown bool                     // whether the bar has been drawn
	began time.Time
	last  time.Time // of the last line
}

func newRewrapProgress(to io.Writer) *rewrapProgress {
	p := &rewrapProgress{to: to, began: time.Now(), last: time.Now()}
	if file, ok := to.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.bar = progressbar.NewOptions64(0, progressbar.OptionSetWriter(to), progressbar.OptionSetDescription("re-wrapping"),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("keys"),
			progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(barInterval), progressbar.OptionSetWidth(30))
	}
	return p
}

// report shows the progress; the job calls it. Write errors are ignored, since progress is not part of the result.
func (p *rewrapProgress) report(now rewrap.Progress) {
	p.shown = true
	if p.bar != nil {
		p.bar.ChangeMax64(max(now.Total, now.Done(), 1))
		_ = p.bar.Set64(now.Done())
		return
	}
	if time.Since(p.last) < lineInterval {
		return
	}
	p.last = time.Now()
	_, _ = fmt.Fprintln(p.to, progressLine(now, time.Since(p.began)))
}

// finish brings the bar to the last progress, and ends its line.
func (p *rewrapProgress) finish(last rewrap.Progress) {
	if p.bar == nil || !p.shown {
		return
	}
	_ = p.bar.Set64(last.Done())
	_, _ = fmt.Fprintln(p.to)
}

// progressLine returns a line of progress. It estimates the remaining time from the average rate so far.
func progressLine(now rewrap.Progress, elapsed time.Duration) string {
	line := fmt.Sprintf("re-wrapped %d of %s", now.Done(), formatKeys(now.Total))
	if now.Unreadable > 0 {
		line += fmt.Sprintf(", %d of them unreadable", now.Unreadable)
	}
	if rest := now.Total - now.Done(); rest > 0 && now.Done() > 0 {
		left := time.Duration(float64(elapsed) / float64(now.Done()) * float64(rest))
		line += "; about " + max(left.Round(time.Second), time.Second).String() + " left"
	}
	return line
}
