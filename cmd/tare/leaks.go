package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
)

const (
	maxReport     = 64 << 20 // bytes of a report or of lines
	maxLeakValues = 100      // values of one request
	maxLeakBytes  = 40 << 10 // bytes of values of one request, whose body may have 64 KiB
)

// leakedValue is a value that was found, and where.
type leakedValue struct {
	text   secret.Text
	places []string
}

// leakedMatch is a match, and where its value was found. The match's index is that of the value among all values.
type leakedMatch struct {
	Places []string           `json:"places"`
	Match  aikeysv1.LeakMatch `json:"match"`
}

func (p *program) leaksCommand() *cobra.Command {
	from, source, revoke := "", "", false
	cmd := &cobra.Command{
		Use:   "leaks",
		Short: "Find which keys have leaked, and revoke them",
		Long: `Finds the keys whose secrets have leaked: the project's keys, its members' own keys, old versions of both, and API keys of
this service. Owners only. The values come from a report of gitleaks (--from), or from standard input, one per line; a line
can be OPENAI_API_KEY=sk-…. tare shows where it found a value, but never the value.

With --revoke, tare revokes what it finds. If a key has been rotated since, it destroys only the version that has leaked.
tare asks for confirmation. Without a terminal, it needs --yes.`,
		Example: `  gitleaks dir --report-format json --report-path report.json; tare leaks --from report.json
  tare leaks --from report.json --revoke --yes`,
		Args: cli.NoArguments("--from"),
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "the `file` with a report of gitleaks in JSON; - means standard input")
	flags.BoolVar(&revoke, "revoke", false, "revoke what is found")
	p.addYes(cmd)
	flags.StringVar(&source, "source", "", "a `text` for the audit trail that says where the values were found")
	wait := addReceiptWait(cmd)
	completeNothingFor(cmd, "source")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		values, err := p.readLeaks(ctx, from)
		if err != nil {
			return err
		}
		matches, err := p.findLeaks(ctx, values, func(ctx context.Context, texts []string) (*aikeysv1.LeaksResponse, error) {
			return s.Leaks().Find(ctx, s.customer, s.project, texts)
		})
		if err != nil || !revoke || len(matches) == 0 {
			return errors.Join(err, p.printLeaks(matches, err))
		}
		if !p.yes {
			if err := p.printLeakTable(matches); err != nil {
				return err
			}
		}
		if err := p.confirm(ctx, fmt.Sprintf("Revoke the keys in these %d lines? It can't be undone.", len(matches))); err != nil {
			return err
		}
		return p.revokeLeaks(ctx, s, values, matches, source, *wait)
	})
	return cmd
}

// revokeLeaks revokes what was found, and prints the result.
func (p *program) revokeLeaks(ctx context.Context, s *session, values []leakedValue, found []leakedMatch, source string, wait time.Duration) error {
	var matching []leakedValue
	for i, value := range values {
		if slices.ContainsFunc(found, func(m leakedMatch) bool { return m.Match.Index == i }) {
			matching = append(matching, value)
		}
	}
	held := min(wait, maxHold)
	p.flags.timeout += held
	matches, err := p.findLeaks(ctx, matching, func(ctx context.Context, texts []string) (*aikeysv1.LeaksResponse, error) {
		return s.Leaks().With(agentrouter.Wait(held)).Revoke(ctx, s.customer, s.project, texts, source)
	})
	if err := errors.Join(err, p.printLeaks(matches, err)); err != nil {
		return hintIfSent(ctx, err, "Some may have been revoked. Running this again is safe.")
	}
	for _, m := range matches {
		if r := m.Match.Receipt; r.State != "" && wait > 0 && r.State != aikeysv1.ReceiptStateComplete {
			return &pendingError{id: m.Match.KeyID + m.Match.TokenID, done: "revoked", receipt: r}
		}
	}
	return nil
}

// readLeaks reads the leaked values from a report of gitleaks, or from lines.
func (p *program) readLeaks(ctx context.Context, from string) ([]leakedValue, error) {
	in := p.stdin
	if from != "" && from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return nil, fileError("--from", "read", err)
		}
		defer func() { _ = file.Close() }() // nothing was written
		in = file
	} else if p.newPrompter() != nil {
		p.printNote("Paste the values, one per line, and end with Ctrl-D. For a report of gitleaks, use --from.")
	}
	text, err := readUntilDone(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, maxReport+1)) })
	switch {
	case err != nil:
		return nil, fileError("--from", "read", err)
	case len(text) > maxReport:
		return nil, cli.Usagef("the input is larger than %d MiB; split it", maxReport>>20)
	}
	findings, err := parseLines(text)
	if from != "" {
		findings, err = parseGitleaks(text)
	}
	if err != nil {
		return nil, err
	}
	var values []leakedValue
	at := map[string]int{}
	for _, f := range findings {
		if f.secret == "" || len(f.secret) > maxSecret {
			continue
		}
		i, known := at[f.secret]
		if !known {
			i = len(values)
			at[f.secret] = i
			values = append(values, leakedValue{text: secret.New(f.secret)})
			p.registerSecret(values[i].text)
		}
		values[i].places = append(values[i].places, f.place)
	}
	return values, nil
}

// finding is one place where a value was found.
type finding struct{ secret, place string }

func parseLines(text []byte) (findings []finding, err error) {
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	lines.Buffer(nil, maxReport)
	for n := 1; lines.Scan(); n++ {
		findings = append(findings, finding{strings.TrimSpace(lines.Text()), "line " + strconv.Itoa(n)})
	}
	return findings, lines.Err()
}

// parseGitleaks reads a report of gitleaks v8. Its error repeats nothing of the report.
func parseGitleaks(text []byte) (findings []finding, err error) {
	var report []struct {
		Secret    string `json:"Secret"`
		File      string `json:"File"`
		StartLine int    `json:"StartLine"`
		Commit    string `json:"Commit"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, cli.Usagef("--from: this is not a report of gitleaks in JSON; write one with gitleaks --report-format json")
	}
	for _, f := range report {
		if f.Secret == "REDACTED" || strings.HasSuffix(f.Secret, "...") {
			return nil, cli.Usagef("--from: the report has its secrets redacted; run gitleaks without --redact, and delete the report afterwards")
		}
		place := f.File + ":" + strconv.Itoa(f.StartLine)
		if len(f.Commit) >= 8 {
			place += " (" + f.Commit[:8] + ")"
		}
		findings = append(findings, finding{f.Secret, place})
	}
	return findings, nil
}

// findLeaks asks the service in batches, and returns the matches in the order of the values. If the request for a batch
// fails, it returns the error and the matches of the batches before.
func (p *program) findLeaks(
	ctx context.Context, values []leakedValue, ask func(context.Context, []string) (*aikeysv1.LeaksResponse, error),
) (matches []leakedMatch, err error) {
	for first := 0; first < len(values); {
		var texts []string
		size := 0
		for _, v := range values[first:] {
			encoded, _ := json.Marshal(v.text.Reveal()) // a string: it can't fail
			if size += len(encoded); len(texts) == maxLeakValues || len(texts) > 0 && size > maxLeakBytes {
				break
			}
			texts = append(texts, v.text.Reveal())
		}
		callCtx, cancel := p.withTimeout(ctx)
		reply, err := ask(callCtx, texts)
		cancel()
		if err != nil {
			return matches, err
		}
		for _, m := range reply.Matches {
			if m.Index < 0 || m.Index >= len(texts) {
				return matches, errors.New("the service answered for a value that it was not asked about")
			}
			m.Index += first
			matches = append(matches, leakedMatch{Places: values[m.Index].places, Match: m})
		}
		first += len(texts)
	}
	return matches, nil
}

// printLeaks prints the matches, unless there are none because of an error.
func (p *program) printLeaks(matches []leakedMatch, err error) error {
	switch {
	case err != nil && len(matches) == 0:
		return nil
	case p.isForPeople():
		return p.printLeakTable(matches)
	}
	return p.printValue(map[string]any{"leaks": append([]leakedMatch{}, matches...)})
}

func (p *program) printLeakTable(matches []leakedMatch) error {
	if len(matches) == 0 {
		p.printNote("No key of the project has leaked here.")
		return nil
	}
	t := &table{columns: []column{
		{head: "FOUND IN", canShrink: true}, {head: "KEY"}, {head: "PROVIDER", dropRank: 3}, {head: "NAME", canShrink: true, dropRank: 2}, {head: "STATE"}, {head: "DONE"},
		{head: "LAST USED", dropRank: 4}, {head: "RECEIPT", dropRank: 1},
	}}
	now := time.Now()
	for _, m := range matches {
		key, name, done := m.Match.KeyID, m.Match.Name, ""
		if m.Match.Version > 1 {
			key += "/" + strconv.Itoa(m.Match.Version)
		}
		if m.Match.TokenID != "" {
			key, name = m.Match.TokenID, "API key of "+m.Match.UserID
		} else if name == "" && m.Match.UserID != "" {
			name = "own key of " + m.Match.UserID
		}
		if m.Match.Action != aikeysv1.LeakMatchActionNone {
			done = string(m.Match.Action)
		}
		t.addRow(cell{m.Places[0], plain}, cell{key, bold}, cell{string(m.Match.Provider), plain}, cell{name, plain}, cell{string(m.Match.State), leakStyle(m.Match.State)},
			cell{done, plain}, cell{relativeTime(m.Match.LastUsedAt, now), plain}, cell{string(m.Match.Receipt.State), plain})
		for _, place := range m.Places[1:] {
			t.continueRow(0, cell{place, plain})
		}
	}
	return p.printTable(t)
}

// leakStyle marks keys that somebody can still use with the leaked value.
func leakStyle(state aikeysv1.LeakMatchState) style {
	switch state {
	case aikeysv1.LeakMatchStateRevoked, aikeysv1.LeakMatchStateDestroyed, aikeysv1.LeakMatchStateExpired:
		return green
	default:
		return red
	}
}
