package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
)

// A gateway makes one Resolver, runs it until the gateway ends, and calls Resolve for each request.
func Example() {
	cp, end := exampleControlPlane()
	defer end()

	resolver, err := dataplane.New(dataplane.Config{
		ControlPlane: cp.URL(),
		Token: func() string {
			token, _ := os.ReadFile("/run/secrets/dataplane-token")
			if len(token) == 0 {
				return dataplanetest.Token
			}
			return strings.TrimSpace(string(token))
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- resolver.Run(ctx) }()

	key, err := resolver.Resolve(ctx, dataplane.ForCaller("ak_EXAMPLE", "openai"))
	switch {
	case errors.Is(err, dataplane.ErrCallerUnauthenticated):
		fmt.Println("answer 401")
		return
	case err != nil:
		fmt.Println("answer 503")
		return
	}
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, key.BaseURL+"/models", http.NoBody)
	request.Header.Set("Authorization", "Bearer ak_EXAMPLE") // the caller's
	if err := key.Authorize(request.Header); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(request.URL, request.Header.Get("Authorization"))
	resolver.Report(key, http.StatusOK) // what the provider answered

	cancel()
	fmt.Println(<-done)
	// Output:
	// https://api.openai.com/v1/models Bearer sk-EXAMPLE
	// <nil>
}

// Types that hold a secret do not print it.
func ExampleRequest() {
	fmt.Println(dataplane.ForCaller("ak_EXAMPLE", "openai"))
	fmt.Println(dataplane.ForUser("acme", "chat", "alice", "openai"))
	// Output:
	// {Credential:[redacted] CustomerID: ProjectID: UserID: Provider:openai KeyID: limited:}
	// {Credential: CustomerID:acme ProjectID:chat UserID:alice Provider:openai KeyID: limited:}
}

// A proxy that sets headers itself needs the name and the value.
func ExampleKey_Header() {
	cp, end := exampleControlPlane()
	defer end()
	resolver, err := dataplane.New(cp.Config())
	if err != nil {
		fmt.Println(err)
		return
	}
	key, err := resolver.Resolve(context.Background(), dataplane.ForUser("acme", "chat", "", "openai"))
	if err != nil {
		fmt.Println(err)
		return
	}
	name, value, err := key.Header()
	fmt.Println(name, value, err)
	fmt.Println(key)
	// Output:
	// Authorization Bearer sk-EXAMPLE <nil>
	// byok_00000000000000000000000001 v1 of acme/chat for openai (project, project_key)
}

// The resolver acts on a revocation within milliseconds.
func ExampleResolver_Status() {
	cp, end := exampleControlPlane()
	defer end()
	resolver, err := dataplane.New(cp.Config())
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- resolver.Run(ctx) }()
	for !resolver.Status().Leased {
		time.Sleep(time.Millisecond)
	}
	wanted := dataplane.ForUser("acme", "chat", "", "openai")
	key, err := resolver.Resolve(ctx, wanted)
	fmt.Println(key.Provider, err)

	revocation := cp.RevokeKey(key.ID)
	for !cp.Acknowledged(revocation) {
		time.Sleep(time.Millisecond)
	}
	_, err = resolver.Resolve(ctx, wanted)
	fmt.Println(errors.Is(err, dataplane.ErrKeyRevoked))
	cancel()
	<-done
	// Output:
	// openai <nil>
	// true
}

// exampleControlPlane returns a control plane for an example. The example must call end, because no test ends the
// control plane for it.
func exampleControlPlane() (cp *dataplanetest.ControlPlane, end func()) {
	var t testing.T
	cp = dataplanetest.NewControlPlane(&t)
	cp.RegisterKey(dataplanetest.Key{Secret: "sk-EXAMPLE"})
	cp.AddCredential("ak_EXAMPLE", dataplanetest.Credential{})
	return cp, cp.Close
}
