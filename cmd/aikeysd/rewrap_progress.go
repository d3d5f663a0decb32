package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/agentrouter/aikeys/impl/rewrap"
)

const (
	// barInterval is how often the bar is drawn anew, lineInterval how often a line is written where there is no terminal.
	barInterval  = 100 * time.Millisecond
	lineInterval = 10 * time.Second
)

// rewrapProgress shows how far a re-wrap is: a bar on a terminal, and elsewhere a line now and then, which a log can
// hold.
type rewrapProgress struct {
	to    io.Writer
	bar   *progressbar.ProgressBar // nil where there is no terminal
	shown bool
	began time.Time
	last  time.Time
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

// report is called by the job. What is drawn is no result: that it can't be written ends nothing.
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

// finish leaves the bar as it is, on a line of its own.
func (p *rewrapProgress) finish(last rewrap.Progress) {
	if p.bar == nil || !p.shown {
		return
	}
	_ = p.bar.Set64(last.Done())
	_, _ = fmt.Fprintln(p.to)
}

// progressLine says how far it is after some time, and how long the rest takes at that rate.
func progressLine(now rewrap.Progress, after time.Duration) string {
	line := fmt.Sprintf("re-wrapped %d of %s", now.Done(), keysText(now.Total))
	if now.Unreadable > 0 {
		line += fmt.Sprintf(", %d of them unreadable", now.Unreadable)
	}
	if rest := now.Total - now.Done(); rest > 0 && now.Done() > 0 {
		left := time.Duration(float64(after) / float64(now.Done()) * float64(rest))
		line += "; about " + max(left.Round(time.Second), time.Second).String() + " left"
	}
	return line
}
