// Command localkms serves local-kms, an emulator of AWS KMS, on a free port of this machine, for tests. It prints its URL. Its own
// program listens for other machines too. Its data is in a new folder, which the argument names.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
)

func main() {
	config.AWSAccountId, config.AWSRegion = "111122223333", "eu-central-1"
	database := data.NewDatabase(os.Args[1])
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Running on http://%s\n", listener.Addr())
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		src.HandleRequest(w, r, database)
	})}
	fmt.Fprintln(os.Stderr, server.Serve(listener))
}
