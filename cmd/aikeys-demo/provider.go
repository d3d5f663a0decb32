package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

const (
	anyPort = "127.0.0.1:0"
	// sentence is what the stand-in of "aikeysd dev" answers.
	sentence = "Hello! I am a stand-in for the provider. Your request came through the gateway, which put in a provider key that you never saw."
)

func providerCommand(p *cli.Program) *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "provider",
		Short: "Run a stand-in for the providers on this machine",
		Args:  cli.NoArguments(),
		Long: `Runs a stand-in for OpenAI, Anthropic, Gemini, Vertex AI, Bedrock and the providers with one of their APIs, until it is
stopped. It accepts any key, and answers every request for a completion with the same sentence, streamed if the request
asks for that. "aikeysd dev" starts it, so that made-up keys work without a network.`,
		Example: `  aikeys-demo provider --listen 127.0.0.1:9000
  aikeys-gateway serve --upstream openai=http://127.0.0.1:9000/v1 ...`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !netaddr.IsLoopbackAddress(listen) {
				return cli.Usagef("--listen: must be an address of this machine, such as 127.0.0.1:9000")
			}
			listener, err := bind(cmd.Context(), listen)
			if err != nil {
				return err
			}
			p.Note("the stand-in for providers is at http://%s", listener.Addr())
			return serveProvider(cmd.Context(), listener, sentence, fakeprovider.Options{AnySecret: true})
		},
	}
	cmd.Flags().StringVar(&listen, "listen", anyPort, "`host:port` to listen on; port 0 takes a free one")
	return cmd
}

func bind(ctx context.Context, address string) (net.Listener, error) {
	var binder net.ListenConfig
	return binder.Listen(ctx, "tcp", address)
}

// serveProvider serves a stand-in that answers with text, word by word, until ctx ends.
func serveProvider(ctx context.Context, listener net.Listener, text string, options fakeprovider.Options) error {
	options.Pieces, options.Pace = strings.SplitAfter(text, " "), fakeprovider.Every(wordPause)
	server := &http.Server{ReadHeaderTimeout: timeout, Handler: fakeprovider.New(options)}
	stopClosing := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopClosing()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
