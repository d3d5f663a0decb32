package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// happening is one line of the timeline.
type happening struct {
	at        time.Time
	who, what string
	colour    string
}

// The colours of a terminal (ECMA-48, SGR).
const (
	plain  = ""
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	red    = "\x1b[31m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

// maxBar is the length of the longest bar: with it, lines fit a terminal of 80 columns.
const maxBar = 22

// introduce says what there is.
func (st *stage) introduce() error {
	return st.Say("A control plane, %d gateways and a stand-in for the provider run on this machine.\n", len(st.gateways))
}

// tell prints what happened when.
func (st *stage) tell(r receipt) error {
	moments := []happening{
		{r.sent, devOwner, "sends the revoke", bold},
		{r.RevokedAt, "database", "has the revocation", bold},
		{r.answered, devOwner, fmt.Sprintf("gets the receipt: %s, %d of %d", r.State, r.Acknowledged, r.DataPlanes), bold},
	}
	for _, g := range st.gateways {
		moments = append(moments, g.moments(r)...)
	}
	slices.SortStableFunc(moments, func(a, b happening) int { return a.at.Compare(b.at) })
	text := &strings.Builder{}
	fmt.Fprintf(text, "\nThen requests keep coming at each gateway, up to one a millisecond, and %s revokes the key:\n\n%9s\n", devOwner, "ms")
	longest := moments[len(moments)-1].at.Sub(r.sent)
	for _, m := range moments {
		after := m.at.Sub(r.sent)
		fmt.Fprintf(text, "%9.2f  %-10s %-34s %s\n", milliseconds(after), m.who, m.what, st.paint(m.colour, bar(after, longest)))
	}
	served, refused := st.count(func(a attempt) bool { return a.status == http.StatusOK }), st.count(func(a attempt) bool { return a.status != http.StatusOK })
	fmt.Fprintf(text, "\nA request's time is when it was sent. %d were served, and %d refused since.", served, refused)
	return st.Say("%s", text)
}

// moments are those of one gateway.
func (g *demoGateway) moments(r receipt) (found []happening) {
	if at, ok := g.acknowledged.of(r.tx); ok {
		found = append(found, happening{at, g.name, "acknowledges: it has forgotten", yellow})
	}
	var last, first attempt
	for _, a := range g.attempts {
		switch {
		case a.status == http.StatusOK:
			last = a
		case first.sent.IsZero():
			first = a
		}
	}
	if !last.sent.IsZero() {
		found = append(found, happening{last.sent, g.name, "serves its last request", green})
	}
	if !first.sent.IsZero() {
		found = append(found, happening{first.sent, g.name, fmt.Sprintf("refuses its first request (%d)", first.status), red})
	}
	return found
}

// verdict is whether the receipt was kept.
func (st *stage) verdict(r receipt) error {
	early := st.count(func(a attempt) bool { return a.answered.Before(r.sent) && a.status != http.StatusOK })
	late := st.count(func(a attempt) bool { return a.sent.After(r.answered) && a.status == http.StatusOK })
	after := st.count(func(a attempt) bool { return a.sent.After(r.answered) })
	switch {
	case early > 0:
		return fmt.Errorf("%d requests were refused before the key was revoked", early)
	case r.State != "complete" || r.Acknowledged != len(st.gateways):
		return fmt.Errorf("the receipt is %s, and %d of %d gateways have acknowledged", r.State, r.Acknowledged, len(st.gateways))
	case after == 0:
		return errors.New("no request was sent after the receipt was complete, so this shows nothing")
	case late > 0:
		return fmt.Errorf("%d requests were served after the receipt was complete", late)
	}
	return st.Say("Of the %d that were sent after the receipt was complete, %.2f ms after the revoke, none was served.",
		after, milliseconds(r.answered.Sub(r.sent)))
}

// count counts the attempts at all gateways that are of a kind.
func (st *stage) count(is func(attempt) bool) (n int) {
	for _, g := range st.gateways {
		for _, a := range g.attempts {
			if is(a) {
				n++
			}
		}
	}
	return n
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// bar draws a time as a length, to an eighth of a character.
func bar(d, longest time.Duration) string {
	if d < 0 || longest <= 0 {
		return ""
	}
	eighths := int(8 * maxBar * d / longest)
	text := strings.Repeat("█", eighths/8)
	if part := eighths % 8; part > 0 || eighths == 0 {
		text += string([]rune("▏▏▎▍▌▋▊▉")[part])
	}
	return text
}

// paint colours text on a terminal that wants it (https://no-color.org).
func (st *stage) paint(colour, text string) string {
	file, ok := st.Stdout.(*os.File)
	if !ok || colour == plain || st.Getenv("NO_COLOR") != "" || st.Getenv("TERM") == "dumb" {
		return text
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return text
	}
	return colour + text + reset
}
