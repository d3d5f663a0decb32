package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/dataplane/gateway"
	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

const (
	demoProvider = "openai"
	demoGateways = 3
	// demoSecret is what the stand-in of the provider takes. It is made up.
	demoSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-DEMO" //nolint:gosec // G101: not a credential of anyone
	// demoPace is how long the stand-in thinks about each word.
	demoPace = 40 * time.Millisecond
	anyPort  = "127.0.0.1:0"
)

// stage is everything that the demonstration needs, in this process.
type stage struct {
	*program
	service  *service
	begin    chan struct{} // closed when the gateways may run
	provider gateway.Server
	gateways []*demoGateway
	session  devSession
	client   *http.Client // of alice
}

// newStage binds all addresses and opens the control plane in a folder. What it takes does not depend on any setting.
func (p *program) newStage(ctx context.Context, folder string) (*stage, error) {
	cfg := newConfig()
	cfg.Listen, cfg.DataplaneListen, cfg.OpsListen = anyPort, anyPort, anyPort
	cfg.LogLevel, cfg.ShutdownTimeout = "error", 2*time.Second
	cfg.useFolder(folder)
	s, err := newProgram(nil, p.Stdout, p.Stderr).newService(ctx, cfg)
	if err != nil {
		return nil, err
	}
	st := &stage{program: p, service: s, client: &http.Client{Transport: &http.Transport{}}}
	if err := st.furnish(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.onReady = func(ctx context.Context) error { return st.seed(ctx, folder) }
	return st, nil
}

// furnish opens the provider and the gateways.
func (st *stage) furnish(ctx context.Context) error {
	s := st.service
	listener, err := httpapi.Listen(ctx, anyPort)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error {
		_ = listener.Close() // its server has closed it, if it came to run
		return nil
	})
	st.provider = gateway.Server{Listener: listener, Drain: s.cfg.ShutdownTimeout, Log: s.log, Handler: fakeprovider.New(fakeprovider.Options{
		Secrets: []string{demoSecret}, Pace: fakeprovider.Every(demoPace),
		Pieces: []string{"I", " answer", " with", " a", " key", " that", " nobody", " here", " can", " read."},
	})}
	upstream := &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/v1"}
	for i := range demoGateways {
		g, err := newDemoGateway(ctx, fmt.Sprintf("gateway-%d", i+1), s, upstream)
		if err != nil {
			return err
		}
		st.gateways = append(st.gateways, g)
	}
	return nil
}

// seed makes the project, its owner and the gateways' credentials, and has the gateways begin.
func (st *stage) seed(ctx context.Context, folder string) (err error) {
	if st.session, err = st.service.seed(ctx, filepath.Join(folder, "session.env"), st.gateways[0].URL()); err != nil {
		return err
	}
	for _, g := range st.gateways {
		if g.token, _, err = createDataPlane(ctx, st.service.store, models.DataPlane{Name: g.name, Customers: []string{devCustomer}}, 0); err != nil {
			return err
		}
	}
	close(st.begin)
	return nil
}

func (st *stage) closeConnections() {
	st.client.CloseIdleConnections()
	for _, g := range st.gateways {
		g.client.CloseIdleConnections()
	}
}

// awaitLeases returns when every gateway follows the control plane.
func (st *stage) awaitLeases(ctx context.Context) error {
	for _, g := range st.gateways {
		for !g.resolver.Status().Leased {
			if pause(ctx, 5*time.Millisecond); ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// alice is the public API's generated client, with the owner's API key.
func (st *stage) alice() (*gen.ClientWithResponses, error) {
	return gen.NewClientWithResponses(st.session.baseURL, gen.WithHTTPClient(st.client),
		gen.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+st.session.ownerKey)
			return nil
		}))
}

// register registers the provider's key for the project.
func (st *stage) register(ctx context.Context) (keyID string, err error) {
	client, err := st.alice()
	if err != nil {
		return "", err
	}
	answer, err := client.RegisterKeyWithResponse(ctx, httpapi.SessionDefault, httpapi.SessionDefault, nil, gen.RegisterRequest{
		Provider: demoProvider, Name: "demo", Secret: secret.New(demoSecret),
	})
	if err != nil {
		return "", err
	}
	if answer.JSON201 == nil {
		return "", fmt.Errorf("the key was not registered: %s", answer.Status())
	}
	key := answer.JSON201.Key
	return key.ID, st.Say("%s registers a key for %s/%s: %s, which ends in %s\n", devOwner, devCustomer, devProject, key.ID, key.DisplaySuffix)
}

// receipt is what came of the revoke.
type receipt struct {
	sent, answered time.Time
	gen.Receipt
	tx int64 // the number of its transaction
}

// revoke revokes the key and waits for the receipt.
func (st *stage) revoke(ctx context.Context, keyID string) (r receipt, err error) {
	client, err := st.alice()
	if err != nil {
		return r, err
	}
	wait := "2s"
	r.sent = time.Now()
	answer, err := client.RevokeKeyWithResponse(ctx, httpapi.SessionDefault, httpapi.SessionDefault, keyID, &gen.RevokeKeyParams{Wait: &wait})
	r.answered = time.Now()
	if err != nil {
		return r, err
	}
	if answer.JSON200 == nil {
		return r, fmt.Errorf("the key was not revoked: %s", answer.Status())
	}
	r.Receipt = answer.JSON200.Receipt
	who := models.Caller{CustomerID: devCustomer, ProjectID: devProject, UserID: devOwner}
	key, err := st.service.store.GetKey(ctx, who, keyID, r.answered.UnixMicro())
	r.tx = key.RevocationTx
	return r, err
}

// converse has one gateway serve a streamed request, and prints the words as they come.
func (st *stage) converse(ctx context.Context, g *demoGateway) error {
	response, err := g.send(ctx, st.session.ownerKey, `{"model":"demo","stream":true,"messages":[{"role":"user","content":"What is new?"}]}`)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", g.name, response.Status)
	}
	if _, err := fmt.Fprintf(st.Stdout, "  %s streams:  ", g.name); err != nil {
		return err
	}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		word := wordOf(lines.Text())
		if _, err := io.WriteString(st.Stdout, word); err != nil {
			return err
		}
	}
	return st.Say("")
}

// wordOf is the text that a line of OpenAI's stream carries.
func wordOf(line string) string {
	data, ok := strings.CutPrefix(line, "data: ")
	var chunk struct {
		Choices []struct {
			Delta struct {
				Content string `json:"content"`
			} `json:"delta"`
		} `json:"choices"`
	}
	if !ok || json.Unmarshal([]byte(data), &chunk) != nil || len(chunk.Choices) == 0 {
		return ""
	}
	return chunk.Choices[0].Delta.Content
}
