package main

import (
	"cmp"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// gatewayVariable has the gateway's address for "tare run". --gateway wins over it, and it wins over the profile.
const gatewayVariable = "AGENTROUTER_GATEWAY_URL"

// sdkVariables are the environment variables from which a provider's SDKs read their address and key.
type sdkVariables struct {
	path      string   // the provider's path at the gateway
	addresses []string // set to the gateway's address with that path
	keys      []string // set to the API key
	unset     []string // unset, because they would win over the others
}

// sdks are the variables of the SDKs that read their address from the environment. docs/gateway.md shows what to set for others.
var sdks = []sdkVariables{
	{path: "/openai", addresses: []string{"OPENAI_BASE_URL"}, keys: []string{"OPENAI_API_KEY"}, unset: []string{"OPENAI_API_BASE"}},
	{path: "/anthropic", addresses: []string{"ANTHROPIC_BASE_URL"}, keys: []string{"ANTHROPIC_API_KEY"}, unset: []string{"ANTHROPIC_AUTH_TOKEN"}},
	{path: "/gemini", addresses: []string{"GOOGLE_GEMINI_BASE_URL"}, keys: []string{"GEMINI_API_KEY"},
		unset: []string{"GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"}},
	{path: "/groq", addresses: []string{"GROQ_BASE_URL"}, keys: []string{"GROQ_API_KEY"}},
	{path: "/cohere", addresses: []string{"CO_API_URL"}, keys: []string{"CO_API_KEY"}},
	{path: "/together", addresses: []string{"TOGETHER_BASE_URL"}, keys: []string{"TOGETHER_API_KEY"}},
	{path: "/fireworks", addresses: []string{"FIREWORKS_BASE_URL"}, keys: []string{"FIREWORKS_API_KEY"}},
	{path: "/perplexity", addresses: []string{"PERPLEXITY_BASE_URL"}, keys: []string{"PERPLEXITY_API_KEY"}},
	{path: "/azure_openai", addresses: []string{"AZURE_OPENAI_ENDPOINT"}, keys: []string{"AZURE_OPENAI_API_KEY"}, unset: []string{"AZURE_OPENAI_AD_TOKEN"}},
	{path: "/bedrock", addresses: []string{"AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "ANTHROPIC_BEDROCK_BASE_URL"}, keys: []string{"AWS_BEARER_TOKEN_BEDROCK"}},
}

func (p *program) runCommand() *cobra.Command {
	gateway := ""
	cmd := &cobra.Command{
		Use:   "run -- <program> [argument]...",
		Short: "Run a program whose SDKs use the gateway and your API key",
		Long: `Runs a program with environment variables that make the providers' SDKs send their requests to the gateway, with your
AgentRouter API key. The gateway replaces it with the provider's key, so this machine needs none. Programs that do not read
these variables are not affected.

The gateway's address comes from --gateway, AGENTROUTER_GATEWAY_URL or the profile ("tare login --gateway"). The variables
are those of OpenAI, Anthropic, Google, Groq, Cohere, Together, Fireworks, Perplexity, Azure OpenAI and Amazon Bedrock;
"tare run -- env" shows them.`,
		Example: `  tare run -- python app.py
  tare run --gateway https://gateway.example.com -- npm start`,
		Args: cobra.ArbitraryArgs,
	}
	cmd.Flags().StringVar(&gateway, "gateway", "", "the `URL` of the gateway, such as https://gateway.example.com [AGENTROUTER_GATEWAY_URL]")
	cmd.Flags().SetInterspersed(false) // flags after the program are the program's
	completeNothingFor(cmd, "gateway")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.command = cmd
		if len(args) == 0 {
			return cli.Usagef("%s takes a program to run, such as: tare run -- python app.py", cmd.CommandPath())
		}
		a, err := p.connectable(cmd.Context())
		if err != nil {
			return err
		}
		environ, err := p.gatewayEnviron(a, gateway)
		if err != nil {
			return err
		}
		file, err := exec.LookPath(args[0])
		if err != nil {
			return cli.Usagef("no such program: %s", errors.Unwrap(err))
		}
		return execute(file, args, environ)
	}
	return cmd
}

// gatewayEnviron returns the environment with the variables of the SDKs.
func (p *program) gatewayEnviron(a access, gateway string) ([]string, error) {
	gateway = cmp.Or(gateway, p.Getenv(gatewayVariable), a.gateway)
	if gateway == "" {
		return nil, cli.Usagef("no gateway: give --gateway, set %s, or store it in the profile with tare login --gateway; the service's operator knows its address", gatewayVariable)
	}
	gateway, err := normalizeURL("the gateway's URL", gateway, a.insecure)
	if err != nil {
		return nil, err
	}
	values := map[string]string{} // :: variable → value, empty for one to unset
	for _, sdk := range sdks {
		for _, name := range sdk.unset {
			values[name] = ""
		}
		for _, name := range sdk.addresses {
			values[name] = gateway + sdk.path
		}
		for _, name := range sdk.keys {
			values[name] = a.apiKey.Reveal()
		}
	}
	environ := slices.DeleteFunc(slices.Clone(p.Environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, ok := values[name]
		return ok
	})
	for name, value := range values {
		if value != "" {
			environ = append(environ, fmt.Sprintf("%s=%s", name, value))
		}
	}
	return environ, nil
}
