package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
	"golang.org/x/sync/errgroup"

	"github.com/agentrouter/aikeys/cmd/internal/child"
	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
)

const (
	timeout  = 30 * time.Second // for the whole demo, on a busy machine
	gateways = 3
	customer = "acme"
	project  = "chat"
	owner    = "alice"
	provider = "openai"
	// providerSecret is the made-up secret that the stand-in for the provider accepts.
	providerSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-DEMO" //nolint:gosec // G101: nobody's credential
	answer         = "I answer with a key that nobody here can read."
	// wordPause is how long the stand-in waits before each word of a stream.
	wordPause = 40 * time.Millisecond
	// requestPause is the least time between two requests to a gateway.
	requestPause = time.Millisecond
	// Requests are sent from this long before the revoke until this long after its receipt.
	loadBefore, loadAfter = 500 * time.Millisecond, 300 * time.Millisecond
	drain                 = 2 * time.Second
)

// demo runs the programs, plays the demo against them, and stops them.
func demo(ctx context.Context, p *cli.Program) error {
	folder, err := os.MkdirTemp("", "aikeys-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	interrupted := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	group, running := errgroup.WithContext(running)
	d := &programs{group: group, running: running, folder: folder}
	err = d.find(p.Environ)
	if err == nil {
		err = play(running, p, d)
	}
	stop()
	err = errors.Join(group.Wait(), err)
	switch {
	case interrupted.Err() != nil:
		return errors.New("the demo was interrupted")
	case ctx.Err() != nil:
		return fmt.Errorf("the demo did not end within %s: %w", timeout, err)
	}
	return err
}

// play is the demo itself, step by step.
func play(ctx context.Context, p *cli.Program, d *programs) error {
	began := time.Now()
	control, apiKey, callers, err := d.startAll(ctx)
	defer func() {
		for _, c := range callers {
			c.client.CloseIdleConnections()
		}
	}()
	if err != nil {
		return err
	}
	if err := p.Say("A control plane, %d gateways and a stand-in for the provider run on this machine, ready after %.1f s.\n",
		gateways, time.Since(began).Seconds()); err != nil {
		return err
	}

	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	sdk, err := agentrouter.New(ctx, agentrouter.WithBaseURL(control.API), agentrouter.WithAPIKey(apiKey),
		agentrouter.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		return err
	}
	began = time.Now()
	registered, err := sdk.AIKeys().Register(ctx, customer, project, provider, "demo", providerSecret, false)
	if err != nil {
		return err
	}
	key := registered.Key
	if err := p.Say("%s registers a key for %s/%s: %s, which ends in %s (%.2f ms)\n",
		owner, customer, project, key.ID, key.DisplaySuffix, milliseconds(time.Since(began))); err != nil {
		return err
	}
	for _, c := range callers {
		if err := c.stream(ctx, p.Stdout); err != nil {
			return err
		}
	}

	if err := playRotation(ctx, p, sdk, key.ID, callers); err != nil {
		return err
	}
	var r revocation
	r.sent, r.answered, err = underLoad(ctx, callers, func() error {
		revoked, err := sdk.AIKeys().With(agentrouter.Wait(drain)).Revoke(ctx, customer, project, key.ID)
		if err == nil {
			r.receipt = revoked.Receipt
		}
		return err
	})
	if err != nil {
		return err
	}
	return report(p, r, callers)
}

// underLoad calls act while the callers send requests, and returns the times at which act began and ended.
func underLoad(ctx context.Context, callers []*caller, act func() error) (sent, answered time.Time, err error) {
	var load errgroup.Group
	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	for _, c := range callers {
		load.Go(func() error { return c.sendRequests(loading) })
	}
	sleep(ctx, loadBefore)
	sent = time.Now()
	err = act()
	answered = time.Now()
	if err == nil {
		sleep(ctx, loadAfter)
	}
	stopLoad()
	return sent, answered, errors.Join(err, load.Wait(), ctx.Err())
}

// startAll starts a provider, a control plane and the gateways, and returns a caller of each gateway. If it fails, it
// also returns the callers that it has made.
func (d *programs) startAll(ctx context.Context) (control addresses, apiKey string, callers []*caller, err error) {
	upstream, err := d.startProvider(ctx)
	if err != nil {
		return control, "", nil, err
	}
	inProject := []string{"--customer", customer, "--project", project, "--user", owner}
	if _, err = d.admin(ctx, append([]string{"member", "set", "--role", "owner"}, inProject...)...); err != nil {
		return control, "", nil, err
	}
	if apiKey, err = d.admin(ctx, append([]string{"token", "create"}, inProject...)...); err != nil {
		return control, "", nil, err
	}
	if control, err = d.start(ctx, d.aikeysd, nil, "serve"); err != nil {
		return control, "", nil, err
	}
	for i := range gateways {
		c, err := d.startGateway(ctx, fmt.Sprintf("gateway-%d", i+1), control.Dataplane, upstream, apiKey)
		if err != nil {
			return control, apiKey, callers, err
		}
		callers = append(callers, c)
	}
	return control, apiKey, callers, nil
}

// programs are the programs that the demo runs.
type programs struct {
	group            *errgroup.Group
	running          context.Context //nolint:containedctx // ends when the programs have to stop
	folder           string
	aikeysd, gateway string // their paths
	environ          []string
}

func (d *programs) find(environ []string) (err error) {
	if d.aikeysd, err = child.Find("aikeysd"); err != nil {
		return err
	}
	if d.gateway, err = child.Find("aikeys-gateway"); err != nil {
		return err
	}
	d.environ = slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, "AIKEYS_") })
	d.environ = append(d.environ, "AIKEYS_DATABASE_URL=sqlite:"+filepath.Join(d.folder, "aikeys.db"),
		"AIKEYS_SEALER=local:"+filepath.Join(d.folder, "keyset.json"), "AIKEYS_LOG_FORMAT=json", "AIKEYS_SHUTDOWN_TIMEOUT="+drain.String(),
		"AIKEYS_LISTEN=127.0.0.1:0", "AIKEYS_DATAPLANE_LISTEN=127.0.0.1:0", "AIKEYS_OPS_LISTEN=127.0.0.1:0")
	return nil
}

// admin runs one of aikeysd's admin commands, and returns what it prints.
func (d *programs) admin(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.aikeysd, append([]string{"admin"}, args...)...) //nolint:gosec // G204: our own program
	cmd.Env = d.environ
	out, err := cmd.Output()
	exit := (*exec.ExitError)(nil)
	if errors.As(err, &exit) {
		err = errors.New(strings.TrimSpace(string(exit.Stderr)))
	}
	return strings.TrimSpace(string(out)), err
}

// addresses are the URLs that a program logs when it listens.
type addresses struct {
	Msg       string `json:"msg"`
	API       string `json:"api"`
	Dataplane string `json:"dataplane"`
	Gateway   string `json:"gateway"`
	Ops       string `json:"ops"`
}

// start starts a program, and returns its addresses when it is ready.
func (d *programs) start(ctx context.Context, path string, environ []string, args ...string) (addresses, error) {
	found := make(chan addresses, 1)
	var lastLine string
	process := child.Process{Path: path, Args: args, Environ: append(slices.Clone(d.environ), environ...), Drain: drain, Log: func(line string) {
		lastLine = line
		var logged addresses
		if json.Unmarshal([]byte(line), &logged) == nil && logged.Msg == "listening" {
			found <- logged
		}
	}}
	d.group.Go(func() error {
		if err := process.Run(d.running); err != nil {
			return fmt.Errorf("%s: %w: %s", filepath.Base(path), err, lastLine)
		}
		return nil
	})
	select {
	case logged := <-found:
		return logged, child.AwaitReady(ctx, logged.Ops)
	case <-ctx.Done():
		return addresses{}, ctx.Err()
	}
}

// startGateway makes a credential for a gateway, and starts it.
func (d *programs) startGateway(ctx context.Context, name, controlPlane, upstream, apiKey string) (*caller, error) {
	token, err := d.admin(ctx, "dataplane", "create", "--name", name, "--customer", customer)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(d.folder, name+".token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return nil, err
	}
	environ := []string{"AIKEYS_GATEWAY_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_OPS_LISTEN=127.0.0.1:0", "AIKEYS_GATEWAY_LOG_FORMAT=json",
		"AIKEYS_GATEWAY_SHUTDOWN_TIMEOUT=" + drain.String(), "AIKEYS_GATEWAY_TOKEN_FILE=" + file,
		"AIKEYS_GATEWAY_CONTROL_PLANE=" + controlPlane, "AIKEYS_GATEWAY_UPSTREAM=" + provider + "=" + upstream}
	started, err := d.start(ctx, d.gateway, environ, "serve")
	return &caller{name: name, gateway: started.Gateway, apiKey: apiKey, client: &http.Client{Transport: &http.Transport{}}}, err
}

// startProvider serves the stand-in for the provider in this process, and returns its URL.
func (d *programs) startProvider(ctx context.Context) (string, error) {
	listener, err := bind(ctx, anyPort)
	if err != nil {
		return "", err
	}
	d.group.Go(func() error {
		return serveProvider(d.running, listener, answer, fakeprovider.Options{Secrets: []string{providerSecret, nextSecret}})
	})
	return "http://" + listener.Addr().String() + "/v1", nil
}

// caller sends requests to one gateway.
type caller struct {
	name, gateway, apiKey string
	client                *http.Client
	attempts              []attempt
	// body is the body of the requests of sendRequests; empty means that of a request that is not streamed.
	body string
}

// attempt records one request: when it was sent, when its answer was complete, and the status of the answer.
type attempt struct {
	sent, answered time.Time
	status         int
}

// send sends a chat completion as a provider's SDK would, with the gateway's URL instead of the provider's.
func (c *caller) send(ctx context.Context, body string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.gateway+"/"+provider+"/chat/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.apiKey)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return response, nil
}

// stream sends one streamed request, and prints the words of the answer as they come.
func (c *caller) stream(ctx context.Context, to io.Writer) error {
	began := time.Now()
	response, err := c.send(ctx, `{"model":"demo","stream":true,"messages":[{"role":"user","content":"What is new?"}]}`)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", c.name, response.Status)
	}
	_, err = fmt.Fprintf(to, "  %s streams:  ", c.name)
	for lines := bufio.NewScanner(response.Body); err == nil && lines.Scan(); {
		var chunk struct {
			Choices []struct {
				Delta struct {
					Content string `json:"content"`
				} `json:"delta"`
			} `json:"choices"`
		}
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		if isData && json.Unmarshal([]byte(data), &chunk) == nil && len(chunk.Choices) > 0 {
			_, err = io.WriteString(to, chunk.Choices[0].Delta.Content)
		}
	}
	if err == nil {
		_, err = fmt.Fprintf(to, " (%.0f ms)\n", milliseconds(time.Since(began)))
	}
	return err
}

// sendRequests sends a request every millisecond, or as fast as the machine can, until ctx ends. It waits for the
// answer to the last request.
func (c *caller) sendRequests(ctx context.Context) error {
	ticker := time.NewTicker(requestPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		a := attempt{sent: time.Now()}
		response, err := c.send(context.WithoutCancel(ctx), cmp.Or(c.body, `{"model":"demo","messages":[{"role":"user","content":"And now?"}]}`))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		a.answered, a.status = time.Now(), response.StatusCode
		c.attempts = append(c.attempts, a)
	}
}

// revocation is the revoke of the key: when it was sent and answered, and the receipt.
type revocation struct {
	sent, answered time.Time
	receipt        aikeysv1.Receipt
}

// report prints what happened when, and returns an error if the receipt was not true.
func report(p *cli.Program, r revocation, callers []*caller) error {
	type event struct {
		at   time.Time
		text string
	}
	events := []event{
		{r.sent, owner + " sends the revoke"},
		{r.receipt.RevokedAt, "the database has the revocation"},
		{r.answered, fmt.Sprintf("%s gets the receipt: %s, confirmed by %d of %d gateways", owner, r.receipt.State, r.receipt.Acknowledged, r.receipt.DataPlanes)},
	}
	for _, c := range callers {
		var lastServed, firstRefused attempt
		for _, a := range c.attempts {
			switch {
			case a.status == http.StatusOK:
				lastServed = a
			case firstRefused.status == 0:
				firstRefused = a
			}
		}
		events = append(events, event{lastServed.sent, c.name + " serves its last request"},
			event{firstRefused.sent, fmt.Sprintf("%s refuses its first request (%d)", c.name, firstRefused.status)})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	verdict, err := judge(r, callers)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("\nThen each gateway gets up to one request a millisecond, and %s revokes the key:\n\n%9s\n", owner, "ms")
	for _, e := range events {
		text += fmt.Sprintf("%9.2f  %s\n", milliseconds(e.at.Sub(r.sent)), e.text)
	}
	return p.Say("%s\nThe time of a request is when it was sent. %s", text, verdict)
}

// judge returns what the requests show, or an error if they do not show that the receipt was true.
func judge(r revocation, callers []*caller) (string, error) {
	var served, refused, early, after, late int
	for _, c := range callers {
		for _, a := range c.attempts {
			ok, isAfter := a.status == http.StatusOK, a.sent.After(r.answered)
			count(&served, ok)
			count(&refused, !ok)
			count(&early, !ok && a.answered.Before(r.sent))
			count(&after, isAfter)
			count(&late, ok && isAfter)
		}
	}
	switch {
	case early > 0:
		return "", fmt.Errorf("%d requests were refused before the key was revoked", early)
	case r.receipt.State != "complete" || r.receipt.Acknowledged != len(callers):
		return "", fmt.Errorf("the receipt is %s, and %d of %d gateways have confirmed", r.receipt.State, r.receipt.Acknowledged, len(callers))
	case after == 0:
		return "", errors.New("no request was sent after the receipt, so this shows nothing")
	case late > 0:
		return "", fmt.Errorf("%d requests were served after the receipt was complete", late)
	}
	return fmt.Sprintf("%d were served, and %d refused since.\nOf the %d that were sent after the receipt was complete, %.2f ms after the revoke, none was served.",
		served, refused, after, milliseconds(r.answered.Sub(r.sent))), nil
}

func count(n *int, is bool) {
	if is {
		*n++
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
