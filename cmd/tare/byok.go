package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

func (p *program) byokCommand() *cobra.Command {
	return p.group(&cobra.Command{
		Use:   "byok",
		Short: "Provider keys: bring your own",
		Long: `Provider keys. The newest active key of a provider serves the project's inference; a member's own key serves that
member before it, unless the policy says otherwise.`,
		Example: `  tare api byok add --provider openai --name openai-prod
  tare api byok list --provider openai
  tare api byok resolve --provider openai
  tare api byok events --limit 20`,
	}, p.addCommand(), p.listCommand(), p.getCommand(), p.removeCommand(), p.resolveCommand(), p.eventsCommand(),
		concealed(p.policyCommand()))
}

// oneArgument takes one argument, and repeats none in its error: it may be a secret.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return cli.Usagef("%s takes one argument, %s", cmd.CommandPath(), what)
	}
}

const (
	keyPrefix   = "byok_"
	ulidLength  = 26
	ulidLetters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// keyID returns a key's id as the service has it, whichever case it was typed in. What can be none is refused here: it may
// be a secret, which has no business in a URL.
func keyID(text string) (string, error) {
	id := strings.ToUpper(strings.TrimPrefix(strings.ToLower(text), keyPrefix))
	strange := func(r rune) bool { return !strings.ContainsRune(ulidLetters, r) }
	if len(id) != ulidLength || id[0] > '7' || strings.ContainsFunc(id, strange) {
		return "", cli.Usagef("that is no key's id: byok_ and 26 letters and digits. tare api byok list shows them")
	}
	return keyPrefix + id, nil
}
