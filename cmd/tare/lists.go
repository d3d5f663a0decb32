package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// pageFlag is the name of the flag that continues a list.
const pageFlag = "page-token"

// listFlags are the flags of the commands that print long lists. Not each command has all of the filters.
type listFlags struct {
	limit                         int // 0 for all
	token                         string
	key, user, provider, from, to string
}

// addPaging adds the flags that bound the list.
func (f *listFlags) addPaging(cmd *cobra.Command, limit int, usage string) {
	cmd.Flags().IntVar(&f.limit, "limit", limit, usage)
	cmd.Flags().StringVar(&f.token, pageFlag, "", "continue a list with the `token` that it ended with")
	completeNothingFor(cmd, "limit", pageFlag)
}

// addFilters adds the filters that all lists have. what is what they list.
func (f *listFlags) addFilters(p *program, cmd *cobra.Command, what string) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "only "+what+" of this key, by its `id`")
	flags.StringVar(&f.provider, "provider", "", "only "+what+" of keys of this provider, by its `slug`")
	flags.StringVar(&f.from, "from", "", "only from this `time` on: a day, such as 2026-11-23, or a time, such as 2026-11-23T09:00:00Z")
	flags.StringVar(&f.to, "to", "", "only before this `time`")
	setCompletion(cmd, "key", p.completeOnline(completeKeys("")))
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	completeNothingFor(cmd, "from", "to")
}

// addUser adds the filter by user.
func (f *listFlags) addUser(p *program, cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.user, "user", "", usage)
	setCompletion(cmd, "user", p.completeOnline(completeMembers))
}

// options returns the filters as options of a call.
func (f *listFlags) options(p *program) (options []agentrouter.CallOption, err error) {
	if f.key != "" {
		id, err := keyID(f.key)
		if err != nil {
			return nil, err
		}
		options = append(options, agentrouter.OfKey(id))
	}
	if f.user != "" {
		options = append(options, agentrouter.OfUser(f.user))
	}
	if f.provider != "" {
		p.providers = []string{f.provider}
		options = append(options, agentrouter.OfProvider(aikeysv1.Provider(f.provider)))
	}
	from, err := parseTime("--from", f.from)
	if err != nil {
		return nil, err
	}
	to, err := parseTime("--to", f.to)
	if err != nil {
		return nil, err
	}
	if !from.IsZero() {
		options = append(options, agentrouter.From(from))
	}
	if !to.IsZero() {
		options = append(options, agentrouter.To(to))
	}
	if !from.IsZero() && !to.IsZero() && from.After(to) {
		return nil, cli.Usagef("--from must not be after --to")
	}
	return options, nil
}

// parseTime reads a day, which begins in UTC, or a time. An empty text is the zero time.
func parseTime(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, cli.Usagef("%s must be a day, such as 2026-11-23, or a time, such as 2026-11-23T09:00:00Z", flag)
}

// readPages reads pages of at most largest items until it has as many as --limit says. The last page is only as large as
// needed, so the token that it returns continues after the limit.
func readPages[T any](
	ctx context.Context, p *program, f listFlags, largest int, filter []agentrouter.CallOption,
	read func(ctx context.Context, options []agentrouter.CallOption) (items []T, next string, err error),
) (all []T, next string, err error) {
	readPage := func(size int) ([]T, string, error) {
		options := append([]agentrouter.CallOption{agentrouter.PageSize(size)}, filter...)
		if next != "" {
			options = append(options, agentrouter.PageToken(next))
		}
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		return read(ctx, options)
	}
	if f.limit < 0 || f.limit == 0 && p.command.Flags().Changed("limit") {
		return nil, "", cli.Usagef("--limit must be 1 or more")
	}
	next = f.token
	for {
		size := largest
		if f.limit > 0 {
			size = min(largest, f.limit-len(all))
		}
		var items []T
		if items, next, err = readPage(size); err != nil {
			return nil, "", err
		}
		all = append(all, items...)
		// A service that repeats tokens must not keep tare busy forever.
		if next == "" || len(items) == 0 || f.limit > 0 && len(all) >= f.limit {
			return all, next, nil
		}
	}
}

// printNoItems says that a list is empty. A filter may be the reason.
func (p *program) printNoItems(none, noMatch string) {
	p.command.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "limit" && p.command.InheritedFlags().Lookup(f.Name) == nil {
			none = noMatch
		}
	})
	p.printNote(none)
}

// printMore prints the command that shows the rest of a list: the user's own command with the page token added.
func (p *program) printMore(token string) {
	if token == "" {
		return
	}
	line := p.command.CommandPath()
	p.command.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case f.Name == pageFlag:
		case f.Value.Type() == "bool":
			line += " --" + f.Name + "=" + f.Value.String()
		default:
			line += " --" + f.Name + " " + shellQuote(f.Value.String())
		}
	})
	p.printNote("There are more: " + line + " --" + pageFlag + " " + shellQuote(token))
}

// shellQuote quotes a text that a shell would not take as one plain word.
func shellQuote(text string) string {
	const plainLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.,:/@%+="
	isForeign := func(r rune) bool { return !strings.ContainsRune(plainLetters, r) }
	if text != "" && !strings.ContainsFunc(text, isForeign) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
