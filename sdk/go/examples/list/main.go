// Command list prints the project's active keys and your own, page by page.
//
// Set AGENTROUTER_BASE_URL and AGENTROUTER_API_KEY.
package main

import (
	"context"
	"fmt"
	"log"

	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

func main() {
	ctx := context.Background()
	client, err := agentrouter.New(ctx)
	if err != nil {
		log.Fatal(err)
	}

	active := client.AIKeys().With(agentrouter.InState(aikeysv1.KeyStateActive), agentrouter.PageSize(50))
	for key, err := range active.All(ctx, "", "") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s  %-12s %-24s …%s\n", key.ID, key.Provider, key.Name, key.DisplaySuffix)
	}
}
