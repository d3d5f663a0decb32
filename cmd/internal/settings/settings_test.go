package settings_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/cmd/internal/settings"
)

func TestSet(t *testing.T) {
	// pantry holds the settings of an invented program.
	type pantry struct {
		*settings.Set

		Jam, Token string
		Jars       int
		Open       bool
	}
	newPantry := func() *pantry {
		p := &pantry{}
		p.Set = settings.New(settings.Names{Prefix: "PANTRY_", Others: []string{"PANTRY_CELLAR_"}, Program: "pantry"}, []*settings.Setting{
			{Name: "jam", Arg: "kind", Default: "plum", Parse: settings.Choice(&p.Jam, "plum", "fig"), Usage: "what is on the shelf"},
			{Name: "jam-jars", Arg: "number", Default: "3", Parse: settings.Count(&p.Jars, 1, 9), Usage: "how many jars"},
			{Name: "token", Arg: "text", Parse: settings.Text(&p.Token), Usage: "what opens the door"},
			{Name: "token-file", Arg: "file", Parse: settings.File, Usage: "file that holds it"},
			{Name: "open", Default: "false", Parse: settings.Switch(&p.Open), Usage: "leave the door open"},
		})
		return p
	}
	// read returns the pantry that flags and variables make, and the complaints.
	read := func(t *testing.T, environ []string, args ...string) (p *pantry, complaints []string) {
		p = newPantry()
		flags := pflag.NewFlagSet("pantry", pflag.ContinueOnError)
		p.AddFlags(flags)
		require.NoError(t, flags.Parse(args))
		if err := p.Read(environ); err != nil {
			usage := (*cli.UsageError)(nil)
			require.ErrorAs(t, err, &usage)
			return p, usage.Complaints
		}
		return p, nil
	}
	t.Run("Precedence", func(t *testing.T) {
		p, complaints := read(t, []string{"PANTRY_JAM=fig", "PANTRY_JAM_JARS=7", "HOME=/"}, "--jam-jars", "8")
		require.Empty(t, complaints)
		require.Equal(t, "fig", p.Jam)
		require.Equal(t, 8, p.Jars)
		require.False(t, p.Open)
		for name, want := range map[string]struct {
			origin settings.Origin
			given  string
		}{
			"jam":      {settings.FromVariable, "PANTRY_JAM"},
			"jam-jars": {settings.FromFlag, "--jam-jars"},
			"open":     {settings.FromDefault, "PANTRY_OPEN"},
		} {
			require.Equal(t, want.origin, p.Of(name).Origin(), name)
			require.Equal(t, want.given, p.Of(name).Given(), name)
		}
		require.Nil(t, p.Of("cheese"))
	})
	t.Run("New applies defaults", func(t *testing.T) {
		p := newPantry()
		require.Equal(t, "plum", p.Jam)
		require.Equal(t, 3, p.Jars)
	})
	t.Run("Preset", func(t *testing.T) {
		p := newPantry()
		p.Of("jam").Preset("fig")
		require.NoError(t, p.Read(nil))
		require.Equal(t, "fig", p.Jam)
		require.Equal(t, settings.FromDefault, p.Of("jam").Origin())
	})
	t.Run("Switch needs no value", func(t *testing.T) {
		p, complaints := read(t, nil, "--open")
		require.Empty(t, complaints)
		require.True(t, p.Open)
	})
	t.Run("All errors are reported without values", func(t *testing.T) {
		p := newPantry()
		err := p.Read([]string{"PANTRY_JAM=hunter2", "PANTRY_JAM_JARS=hunter2", "PANTRY_OPEN=", "PANTRY_JAMM=hunter2"},
			func() []string { return []string{"the door: is locked"} })
		require.EqualError(t, err, strings.Join([]string{
			"PANTRY_JAMM: no such setting; did you mean PANTRY_JAM?",
			"PANTRY_JAM: must be one of plum, fig",
			"PANTRY_JAM_JARS: must be a whole number from 1 to 9",
			"PANTRY_OPEN: must not be empty; leave it out for its default, false",
			"the door: is locked",
		}, "\n"))
	})
	t.Run("Values with control characters or in quotes are refused", func(t *testing.T) {
		for text, says := range map[string]string{
			"a\r": "control character", "a\nb": "control character", `"a"`: "is in quotes", `'a'`: "is in quotes",
		} {
			_, complaints := read(t, []string{"PANTRY_TOKEN=" + text})
			require.Len(t, complaints, 1, "%q", text)
			require.Contains(t, complaints[0], "PANTRY_TOKEN: ")
			require.Contains(t, complaints[0], says)
		}
		_, complaints := read(t, []string{`PANTRY_TOKEN=a"b`})
		require.Empty(t, complaints)
	})
	t.Run("Unknown variables", func(t *testing.T) {
		const unknown = ": no such setting; pantry serve --help lists them all"
		cases := map[string]struct {
			variable  string
			complaint string
		}{
			"another program's":                                {"CELLAR_LIGHT", ""},
			"without the prefix's underscore":                  {"PANTRYJAM", ""},
			"a program's whose prefix is longer":               {"PANTRY_CELLAR_JAM", ""},
			"a Kubernetes Service's of that program":           {"PANTRY_CELLAR_SERVICE_HOST", ""},
			"similar to that program's":                        {"PANTRY_CELLARS_JAM", unknown},
			"that program's prefix without its end":            {"PANTRY_CELLAR", unknown},
			"a Kubernetes Service's host":                      {"PANTRY_SERVICE_HOST", ""},
			"a Kubernetes Service's named port":                {"PANTRY_SERVICE_PORT_HTTP", ""},
			"a Kubernetes Service's link":                      {"PANTRY_PORT", ""},
			"a Kubernetes Service's link in parts":             {"PANTRY_PORT_80_TCP_PROTO", ""},
			"similar to a Kubernetes Service's":                {"PANTRY_PORTS", unknown},
			"a port that is no Kubernetes Service's":           {"PANTRY_DATABASE_PORT", unknown},
			"a Kubernetes Service's of an unknown program":     {"PANTRY_ATTIC_SERVICE_HOST", unknown},
			"one in lower case":                                {"PANTRY_jam", ": no such setting; did you mean PANTRY_JAM or PANTRY_JAM_JARS?"},
			"a setting with one letter wrong":                  {"PANTRY_TOKEM", ": no such setting; did you mean PANTRY_TOKEN?"},
			"a setting with two letters in each other's place": {"PANTRY_OEPN", ": no such setting; did you mean PANTRY_OPEN?"},
			"the beginning of two settings":                    {"PANTRY_TOKE", ": no such setting; did you mean PANTRY_TOKEN or PANTRY_TOKEN_FILE?"},
		}
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				_, complaints := read(t, []string{tc.variable + "=hunter2"})
				if tc.complaint == "" {
					require.Empty(t, complaints)
					return
				}
				require.Equal(t, []string{tc.variable + tc.complaint}, complaints)
			})
		}
	})
	t.Run("Help shows variable and default", func(t *testing.T) {
		flags := pflag.NewFlagSet("pantry", pflag.ContinueOnError)
		newPantry().AddFlags(flags, "jam", "open")
		require.Equal(t, "      --jam kind   what is on the shelf [PANTRY_JAM] (default plum)\n"+
			"      --open       leave the door open [PANTRY_OPEN]\n", flags.FlagUsages())
	})
	t.Run("Or file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		require.NoError(t, os.WriteFile(file, []byte("\ufeffhunter2\r\n"), 0o600))

		p, complaints := read(t, []string{"PANTRY_TOKEN_FILE=" + file})
		require.Empty(t, complaints)
		giver, err := p.OrFile("token", &p.Token)
		require.NoError(t, err)
		require.Equal(t, "hunter2", p.Token, "without its byte order mark and line end")
		require.Equal(t, "PANTRY_TOKEN_FILE", giver.Given(), "which a complaint about the value should name")

		p, _ = read(t, []string{"PANTRY_TOKEN=opensesame", "PANTRY_TOKEN_FILE="})
		giver, err = p.OrFile("token", &p.Token)
		require.NoError(t, err)
		require.Equal(t, "opensesame", p.Token)
		require.Equal(t, "PANTRY_TOKEN", giver.Given())

		p, _ = read(t, []string{"PANTRY_TOKEN=opensesame"}, "--token-file", file)
		_, err = p.OrFile("token", &p.Token)
		require.EqualError(t, err, "PANTRY_TOKEN and --token-file: give one of them, not both")

		p, _ = read(t, nil, "--token-file", file+"2")
		_, err = p.OrFile("token", &p.Token)
		require.ErrorIs(t, err, os.ErrNotExist)
		require.ErrorContains(t, err, "--token-file: ")

		require.NoError(t, os.Chmod(file, 0o644))
		p, _ = read(t, nil, "--token-file", file)
		_, err = p.OrFile("token", &p.Token)
		require.ErrorContains(t, err, "--token-file: ")
		require.ErrorContains(t, err, "chmod 600", "others could read it")
	})
}

func TestProgramWithTheLongerPrefix(t *testing.T) {
	var jam string
	cellar := settings.New(settings.Names{Prefix: "PANTRY_CELLAR_", Program: "cellar"}, []*settings.Setting{
		{Name: "jam", Arg: "kind", Default: "plum", Parse: settings.Text(&jam)},
	})
	require.NoError(t, cellar.Read([]string{"PANTRY_JAM=apricot", "PANTRY_JARS=1", "PANTRY_CELLAR_JAM=fig"}))
	require.Equal(t, "fig", jam)
	require.EqualError(t, cellar.Read([]string{"PANTRY_CELLAR_LIGHT=on"}), "PANTRY_CELLAR_LIGHT: no such setting; cellar serve --help lists them all")
}

func TestParsers(t *testing.T) {
	var (
		text     string
		number   float64
		span     time.Duration
		networks []netip.Prefix
	)
	cases := map[string]struct {
		parse          func(string) error
		sound, refused []string
		wanted         string
	}{
		"quantity": {settings.Quantity(&number), []string{"0", "2.5"}, []string{"-1", "NaN", "Inf", "1e10", "", "many"}, "0 or more"},
		"duration": {settings.Duration(&span), []string{"20s", "1m30s"}, []string{"0s", "-1s", "20", ""}, "such as 20s"},
		"address": {settings.Address(&text), []string{"127.0.0.1:0", ":8080", "[::1]:80", "db:5432"},
			[]string{"127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536", "::1", ""}, "host:port"},
		"networks": {settings.Networks(&networks), []string{"", "10.0.0.0/8, 192.0.2.1", "fd00::/8,"}, []string{"10.0.0.0/33", "proxy"}, "such as 10.0.0.0/8"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, text := range tc.sound {
				require.NoError(t, tc.parse(text), "%q", text)
			}
			for _, text := range tc.refused {
				require.ErrorContains(t, tc.parse(text), tc.wanted, "%q", text)
			}
		})
	}
	var list []string
	require.NoError(t, settings.List(&list)("a, b,"))
	require.Equal(t, []string{"a", "b"}, list)
	require.NoError(t, settings.List(&list)(""))
	require.Empty(t, list)
	require.NoError(t, settings.Networks(&networks)("10.0.0.0/8,192.0.2.1"))
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32")}, networks)
}
