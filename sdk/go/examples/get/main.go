// Command get prints the metadata of a key. Its argument is the key's id; without one, it takes the newest key.
//
// Set AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	agentrouter "github.com/tetrateio/agentrouter-go"
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

	reply, err := client.AIKeys().Get(ctx, "", "", id)
	switch {
	case errors.Is(err, agentrouter.ErrNotFound):
		log.Fatalf("there is no key %s that you may see", id)
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(reply.Key)
}

func keyID(ctx context.Context, client *agentrouter.Client) (string, error) {
	if len(os.Args) > 1 {
		return os.Args[1], nil
	}
	newest, err := client.AIKeys().With(agentrouter.PageSize(1)).List(ctx, "", "")
	if err != nil {
		return "", err
	}
	if len(newest.Keys) == 0 {
		return "", errors.New("the project has no keys yet: run the \"register\" example first")
	}
	return newest.Keys[0].ID, nil
}
