// Command revoke ends the key whose id is its argument, and waits for the proof that no data plane uses it. Without an
// argument, it first registers a made-up key of your own, and then revokes it.
//
// Set AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"time"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

func main() {
	ctx := context.Background()
	client, err := agentrouter.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	id, err := keyID(ctx, client)
	if err != nil {
		log.Fatal(err)
	}

	patient := client.AIKeys().With(agentrouter.Wait(2 * time.Second))
	reply, err := patient.Revoke(ctx, "", "", id)
	if err != nil {
		log.Fatal(err)
	}
	receipt := reply.Receipt
	fmt.Printf("revoked %s: %s, %d of %d data planes have confirmed\n",
		id, receipt.State, receipt.Acknowledged, receipt.DataPlanes)
}

func keyID(ctx context.Context, client *agentrouter.Client) (string, error) {
	if len(os.Args) > 1 {
		return os.Args[1], nil
	}
	name, secret := "example-"+rand.Text()[:8], "sk-proj-"+rand.Text()+rand.Text()
	made, err := client.AIKeys().Register(ctx, "", "", aikeysv1.ProviderOpenai, name, secret, true)
	if err != nil {
		return "", err
	}
	return made.Key.ID, nil
}
