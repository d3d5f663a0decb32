// Command register stores a provider key of your own under your session's project, and prints its metadata.
//
// Set AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY. It registers the key in OPENAI_API_KEY or, if that is not set, a
// made-up key.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"os"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

func main() {
	ctx := context.Background()
	client, err := agentrouter.New(ctx)
	if err != nil {
		log.Fatal(err)
	}

	name := "example-" + rand.Text()[:8]
	secret := cmp.Or(os.Getenv("OPENAI_API_KEY"), "sk-proj-"+rand.Text()+rand.Text())
	reply, err := client.AIKeys().RegisterKey(ctx, agentrouter.RegisterParams{
		Provider:  aikeysv1.ProviderOpenai,
		Name:      name,
		Secret:    agentrouter.Secret(secret),
		UserScope: true, // serves my requests alone
	})
	switch {
	case errors.Is(err, agentrouter.ErrAlreadyExists):
		log.Fatalf("an active key is called %s already: choose another name, or revoke that one", name)
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println("registered", reply.Key.ID, "ending in", reply.Key.DisplaySuffix)
}
