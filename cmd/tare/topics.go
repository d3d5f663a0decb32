package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Topics are commands that do nothing: "tare help NAME" shows them.

func exitCodesTopic() *cobra.Command {
	var list strings.Builder
	list.WriteString("What the exit code says:\n\n")
	for _, row := range exitCodes() {
		fmt.Fprintf(&list, "  %3d  %s\n", row.code, row.meaning)
	}
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes say", Long: strings.TrimSpace(list.String())}
}

func environmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "The variables that tare reads",
		Long: `The variables that tare reads:

  AGENTROUTER_BASE_URL   where the service is; wins over the profile, --base-url wins over it
  AGENTROUTER_API_KEY    the API key or session token; wins over the profile, --profile wins over it. No flag takes a key
  TARE_CONFIG_DIR        the folder of profiles.json, in the place of tare in the system's folder for settings
  NO_COLOR               anything: no colours
  HTTPS_PROXY, NO_PROXY  the proxy to go through; none to this machine
  SSL_CERT_FILE          on Linux, whom to trust with certificates, in PEM`,
	}
}

// withoutValue tells what is wrong with a flag. Texts that may be a value are left out.
func withoutValue(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		invalid *pflag.InvalidValueError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &unknown) && flagLike(unknown.GetSpecifiedName()):
		if cmd.HasSubCommands() {
			return fmt.Errorf("%s has no flag --%s, or its command is misspelt", cmd.CommandPath(), unknown.GetSpecifiedName())
		}
		return errors.New("unknown flag: --" + unknown.GetSpecifiedName())
	case errors.As(err, &unknown), errors.As(err, &syntax):
		return fmt.Errorf("%s has no such flag; long flags begin with two dashes", cmd.CommandPath())
	case errors.As(err, &invalid):
		return fmt.Errorf("--%s %s", invalid.GetFlag().Name, complaint(invalid))
	}
	return err
}

// longestFlag is longer than any of our flags' names.
const longestFlag = 20

// flagLike tells what can be a flag, misspelt, and no flag with a secret right behind it.
func flagLike(name string) bool {
	other := func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') }
	return name != "" && len(name) <= longestFlag && !strings.ContainsFunc(name, other)
}

// complaint is what is wrong with a flag's value. The library's own flags repeat it; ours do not.
func complaint(invalid *pflag.InvalidValueError) string {
	switch invalid.GetFlag().Value.Type() {
	case "bool":
		return "takes no value, or true or false"
	case "int":
		return "must be a whole number"
	default:
		return errors.Unwrap(invalid).Error()
	}
}
