package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

const (
	// nextSecret is the made-up secret to which the key is rotated. The stand-in accepts it too.
	nextSecret = "sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-NEXT" //nolint:gosec // G101: nobody's credential
	streaming  = `{"model":"demo","stream":true,"messages":[{"role":"user","content":"And now?"}]}`
)

// playRotation rotates the key while each gateway gets requests and streams, and prints what happened when. No request
// and no stream may fail.
func playRotation(ctx context.Context, p *cli.Program, sdk *agentrouter.Client, id string, callers []*caller) error {
	senders := make([]*caller, 0, 2*len(callers))
	for _, c := range callers {
		for _, body := range []string{"", streaming} {
			senders = append(senders, &caller{name: c.name, gateway: c.gateway, apiKey: c.apiKey, client: c.client, body: body})
		}
	}
	var reply *aikeysv1.RotateResponse
	sent, answered, err := underLoad(ctx, senders, func() (err error) {
		reply, err = sdk.AIKeys().With(agentrouter.Wait(drain)).Rotate(ctx, customer, project, id, nextSecret, agentrouter.ActivateNow())
		return err
	})
	if err != nil {
		return err
	}
	if reply.Receipt == nil {
		return errors.New("the rotation has no receipt")
	}
	served, failed, after := 0, 0, 0
	for _, s := range senders {
		for _, a := range s.attempts {
			count(&served, a.status == http.StatusOK)
			count(&failed, a.status != http.StatusOK)
			count(&after, a.sent.After(answered))
		}
	}
	r := reply.Receipt
	switch {
	case failed > 0:
		return fmt.Errorf("%d requests failed while the key was rotated", failed)
	case !r.OldVersionSafeToDelete || r.Acknowledged != len(callers):
		return fmt.Errorf("the receipt is %s, and %d of %d gateways have confirmed", r.State, r.Acknowledged, r.DataPlanes)
	case after == 0:
		return errors.New("no request was sent after the rotation, so this shows nothing")
	}
	inFlight := 0
	if r.InFlight != nil {
		inFlight = *r.InFlight
	}
	return p.Say(`
Each gateway gets requests and streams, and %s rotates the key to a secret that ends in %s:

  %.2f ms: the database has version %d
  %.2f ms: %s gets the receipt: %s, confirmed by %d of %d gateways; %d requests with version %d were in progress, and go on
           old_version_safe_to_delete: %t

%d requests were served, and none failed.
`, owner, reply.Key.DisplaySuffix, milliseconds(r.RotatedAt.Sub(sent)), r.Version, milliseconds(answered.Sub(sent)), owner, r.State,
		r.Acknowledged, r.DataPlanes, inFlight, r.ReplacedVersion, r.OldVersionSafeToDelete, served)
}
