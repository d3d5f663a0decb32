package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	agentrouter "github.com/tetrateio/agentrouter-go"
	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
)

// keysCommand returns the commands for provider keys. They are under "api byok", as published, and under "keys".
func (p *program) keysCommand(use string) *cobra.Command {
	group := p.group(&cobra.Command{
		Use:   use,
		Short: "Register, list, change, rotate, test and revoke provider keys",
		Long: `Provider keys. A provider's newest active key serves the project's inference. A member's own key serves that member
first, unless the policy says otherwise.`,
		Example: `  tare api byok add --provider openai --name openai-prod
  tare api byok list --provider openai
  tare api byok verify byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok resolve --provider openai
  tare api byok events --limit 20
  tare api byok usage --from 2026-11-23`,
	}, p.addCommand(), p.listCommand(), p.getCommand(), p.watchCommand(), p.updateCommand(), p.disableCommand(), p.enableCommand(),
		p.rotateCommand(), p.versionsCommand(), p.activateCommand(), p.rollbackCommand(), p.destroyCommand(),
		p.removeCommand(), p.verifyCommand(), p.resolveCommand(), p.eventsCommand(),
		p.usageCommand(), p.fetchesCommand(),
		hiddenCommand(p.policyCommand()))
	if use != "byok" {
		for _, cmd := range append(group.Commands(), group) {
			cmd.Example = strings.ReplaceAll(cmd.Example, "tare api byok ", "tare "+use+" ")
		}
	}
	return group
}

const (
	keyPrefix   = "byok_"
	ulidLength  = 26
	ulidLetters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// keyID returns the id of a key as the service writes it; people may type it in any case. It refuses text that can't be
// an id: such text may be a secret, and must not get into a URL.
func keyID(text string) (string, error) {
	id := strings.ToUpper(strings.TrimPrefix(strings.ToLower(text), keyPrefix))
	isForeign := func(r rune) bool { return !strings.ContainsRune(ulidLetters, r) }
	if len(id) != ulidLength || id[0] > '7' || strings.ContainsFunc(id, isForeign) {
		return "", cli.Usagef("a key's id is byok_ and 26 letters and digits; tare api byok list shows the ids")
	}
	return keyPrefix + id, nil
}

// findKey returns the id of the key that an argument names. The argument is a key's id or, for an active key, its name
// or its provider and name, such as openai/prod. An argument that is not an id gets neither into a URL nor into an
// error, because it may be a secret.
func (p *program) findKey(ctx context.Context, s *session, text string) (string, error) {
	if id, err := keyID(text); err == nil {
		return id, nil
	}
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	reply, err := s.AIKeys().With(agentrouter.InState(aikeysv1.KeyStateActive)).List(ctx, s.customer, s.project)
	if err != nil {
		return "", err
	}
	var found []string
	for i := range reply.Keys {
		k := &reply.Keys[i]
		if text == k.Name || text == string(k.Provider)+"/"+k.Name {
			found = append(found, k.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", hintedError{errNoSuchKey, "List the keys with: tare api byok list"}
	}
	return "", cli.Usagef("%d active keys have that name: give one of their ids, %s, or put the provider before it, as in openai/prod",
		len(found), strings.Join(found, ", "))
}

// keyCommand makes cmd run on the key that its argument names. The shell completes keys in a state, or all keys if
// state is empty.
func (p *program) keyCommand(
	cmd *cobra.Command, state aikeysv1.KeyState, run func(ctx context.Context, s *session, id string) error,
) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = oneArgument("the key's id or name"), completeFirst(p.completeOnline(completeKeys(state)))
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, args []string) error {
		id, err := p.findKey(ctx, s, args[0])
		if err != nil {
			return err
		}
		return run(ctx, s, id)
	})
	return cmd
}

// addOptions are the flags of "add".
type addOptions struct {
	provider, name     string
	secret, secretFile string
	idempotencyKey     string
	userScope          bool
	verify, noVerify   bool
	force              bool
	expires            string
	order, weight      int
	hasOrder           bool
	use                useFlags
	hasSecret          bool
}

const secretFileFlag = "--secret-file"

func (p *program) addCommand() *cobra.Command {
	var a addOptions
	cmd := &cobra.Command{
		Use: "add", Aliases: []string{"register", "create"},
		Short: "Register a provider's key",
		Long: `Registers a provider's key. The service seals it at once and never shows it again; from then on the key serves.

On a terminal tare asks for the secret and does not show it; otherwise it reads standard input. --secret works too, but
other users of this machine can see it in process lists.

The service first tests the secret at its provider, if its operator allows that, and does not store a secret that the
provider rejects. --force stores it all the same; --no-verify skips the test.

The key belongs to the project (owners only) or, with --user-scope, to you. A provider's newest active key serves, so a
second key replaces the first without a gap. With --order 1 the key is in reserve: it serves when no key of a lower
order can. Keys of the same order that have a --weight share the callers. The --restrict and --limit flags say what the
key may be used for, and how often: see "update".`,
		Example: `  tare api byok add --provider openai --name openai-prod
  printf %s "$OPENAI_API_KEY" | tare api byok add --provider openai --name openai-prod
  tare api byok add --provider vertex --name gcp --secret-file service-account.json
  tare api byok add --provider anthropic --name mine --user-scope
  tare api byok add --provider openai --name trial --restrict-models 'gpt-4o-mini,o4-*' --limit-rpm 60`,
		Args: cli.NoArguments("--provider", "--name", secretFileFlag),
	}
	flags := cmd.Flags()
	flags.StringVar(&a.provider, "provider", "", "the provider's `slug`; tare api providers lists them (required)")
	flags.StringVar(&a.name, "name", "", "a `label`, unique among the provider's active keys (required)")
	flags.StringVar(&a.secretFile, "secret-file", "", "the `file` with the secret; - means standard input")
	flags.StringVar(&a.secret, "secret", "", "the `secret` itself; visible in process lists, so prefer the prompt, a pipe or --secret-file")
	flags.BoolVar(&a.userScope, "user-scope", false, "register it as your own key, not the project's")
	flags.BoolVar(&a.verify, "verify", true, "test the secret at its provider first")
	flags.BoolVar(&a.noVerify, "no-verify", false, "do not test the secret; the same as --verify=false")
	flags.BoolVar(&a.force, "force", false, "store the key even if its provider rejects it")
	flags.StringVar(&a.expires, "expires", "", "stop serving at this `time`: a day in UTC, such as 2099-06-30, or a time, such as 2099-06-30T09:00:00Z")
	flags.IntVar(&a.order, "order", 0, "its place among the keys of its scope: the lowest `number` serves; among equals, the newest key")
	flags.IntVar(&a.weight, "weight", 0, "its `share` of the callers, among the keys of its order that have a weight; 0 means no weight")
	flags.StringVar(&a.idempotencyKey, "idempotency-key", "", "any `value`; repeating the command with the same value within 24 hours is safe")
	p.addUseFlags(cmd, &a.use)
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	completeNothingFor(cmd, "name", "secret", "expires", "order", "weight", "idempotency-key")
	cmd.RunE = p.withSession(func(ctx context.Context, s *session, _ []string) error {
		a.hasSecret, a.hasOrder = flags.Changed("secret"), flags.Changed("order")
		return p.addKey(ctx, s, a)
	})
	return cmd
}

func (p *program) addKey(ctx context.Context, s *session, a addOptions) error {
	switch {
	case a.provider == "":
		return cli.Usagef("--provider is required; tare api providers lists them")
	case a.name == "":
		return cli.Usagef("--name is required: a label for the key")
	case a.hasSecret && a.secretFile != "":
		return cli.Usagef("--secret and --secret-file exclude each other")
	}
	end, err := parseTime("--expires", a.expires)
	if err != nil {
		return err
	}
	p.providers = []string{a.provider}
	text, err := p.readProviderSecret(ctx, s, a)
	if err != nil {
		return err
	}
	calls := s.AIKeys().With(a.use.options()...).With(
		when(a.idempotencyKey != "", agentrouter.IdempotencyKey(a.idempotencyKey)),
		when(a.verify && !a.noVerify, agentrouter.Verify()),
		when(a.force, agentrouter.Force()),
		when(!end.IsZero(), agentrouter.ExpiresAt(end)),
		when(a.hasOrder, agentrouter.AtOrder(a.order)),
		when(a.weight != 0, agentrouter.WithWeight(a.weight)),
	)
	callCtx, cancel := p.withTimeout(ctx)
	defer cancel()
	reply, err := calls.Register(callCtx, s.customer, s.project, aikeysv1.Provider(a.provider), a.name, text.Reveal(), a.userScope)
	if err != nil {
		return hintIfSent(ctx, err, "The key may have been registered anyway; if so, tare api byok list shows it.")
	}
	return p.printResponse(s, func() error {
		return errors.Join(p.printKey(&reply.Key), p.printDetails(warningDetails(reply.Warnings)))
	})
}

// warningDetails lists the other keys that have the same secret.
func warningDetails(warnings []aikeysv1.KeyWarning) (details []detail) {
	for _, w := range warnings {
		if w.Code == aikeysv1.KeyWarningCodeDuplicateSecret {
			details = append(details, detail{"Warning", cell{"the key " + w.KeyID + " has the same secret", yellow}})
		}
	}
	return details
}

func (p *program) readProviderSecret(ctx context.Context, s *session, a addOptions) (secret.Text, error) {
	if a.hasSecret {
		s := secret.New(a.secret)
		p.registerSecret(s)
		p.printNote("tare: warning: --secret is visible in process lists and in the shell's history; " +
			"prefer the prompt, a pipe or --secret-file")
		if a.secret == "" {
			return secret.Text{}, cli.Usagef("--secret is empty")
		}
		return s, nil
	}
	from := secretSource{file: a.secretFile, flag: secretFileFlag, what: "secret"}
	if from.file == "" && p.newPrompter() != nil {
		var err error
		if from.question, err = p.secretPrompt(ctx, s, a.provider); err != nil {
			return secret.Text{}, err
		}
	}
	return p.readSecret(ctx, from)
}

// secretPrompt returns the prompt for the secret. It fails if the provider does not exist or its secret is a JSON
// document, so that nobody types a secret in vain.
func (p *program) secretPrompt(ctx context.Context, s *session, slug string) (string, error) {
	ctx, cancel := p.withTimeout(ctx)
	defer cancel()
	all, err := s.Providers().List(ctx)
	if err != nil {
		return "", err
	}
	for _, each := range all.Providers {
		if string(each.Slug) != slug {
			continue
		}
		if each.SecretFormat == aikeysv1.SecretFormatJSON {
			return "", cli.Usagef("a key of %s is a JSON document with %s: put it in a file and name it with %s",
				p.sanitize(each.DisplayName), p.sanitize(fieldsOf(each)), secretFileFlag)
		}
		p.printNote("Create one at " + each.KeyPageURL)
		return fmt.Sprintf("Key of %s (not shown):", each.DisplayName), nil
	}
	return "", hintedError{errUnknownProvider(slug), providerHint(slug, all.Providers)}
}

func (p *program) listCommand() *cobra.Command {
	var provider string
	var state aikeysv1.KeyState
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the project's keys and your own",
		Long: `Lists the project's keys and your own, newest first, including revoked ones. A narrow terminal shows fewer columns;
"get" and -o json show everything.`,
		Example: `  tare api byok list
  tare api byok list --provider openai --state active
  tare api byok list -o json`,
		Args: cli.NoArguments("--provider", "--state"),
	}
	cmd.Flags().StringVar(&provider, "provider", "", "only keys of this provider, by its `slug`")
	addChoice(cmd.Flags(), cmd, &state, "state", "", "only keys in this state", aikeysv1.KeyStateActive, aikeysv1.KeyStateRevoked)
	setCompletion(cmd, "provider", p.completeOnline(completeProviders))
	cmd.RunE = runCall(p, func(ctx context.Context, s *session, _ []string) (*aikeysv1.ListResponse, error) {
		p.providers = []string{provider}
		return s.AIKeys().With(
			when(provider != "", agentrouter.OfProvider(aikeysv1.Provider(provider))), when(state != "", agentrouter.InState(state)),
		).List(ctx, s.customer, s.project)
	}, func(reply *aikeysv1.ListResponse) error {
		return p.printKeys(reply.Keys, provider != "" || state != "")
	})
	return cmd
}

func (p *program) printKeys(keys []aikeysv1.Key, filtered bool) error {
	if len(keys) == 0 {
		if filtered {
			p.printNote("No keys match.")
		} else {
			p.printNote("There are no keys yet. Register one: tare api byok add --provider openai --name openai-prod")
		}
		return nil
	}
	t := &table{columns: []column{
		{head: "ID"}, {head: "PROVIDER"}, {head: "NAME", canShrink: true}, {head: "SECRET", dropRank: 1}, {head: "SCOPE", dropRank: 2},
		{head: "STATE"}, {head: "CREATED", dropRank: 4}, {head: "BY", dropRank: 5}, {head: "USED", dropRank: 3},
	}}
	now := time.Now()
	for i := range keys {
		k := &keys[i]
		look, state := plain, green
		switch {
		case k.State == aikeysv1.KeyStateRevoked:
			look, state = dim, dim
		case isHeldBack(k):
			state = red
		}
		t.addRow(cell{k.ID, look}, cell{string(k.Provider), look}, cell{k.Name, look}, cell{formatSuffix(k), look}, cell{formatScope(k), look},
			cell{formatState(k), state}, cell{relativeTime(k.CreatedAt, now), look}, cell{k.CreatedBy, look}, lastUseCell(k, now))
	}
	return p.printTable(t)
}

func formatSuffix(k *aikeysv1.Key) string { return formatNonZero("…%s", k.DisplaySuffix) }

func formatScope(k *aikeysv1.Key) string {
	if k.UserScope {
		return "own"
	}
	return "project"
}

// isHeldBack reports whether an active key does not serve.
func isHeldBack(k *aikeysv1.Key) bool {
	return k.State == aikeysv1.KeyStateActive && k.Serves != nil && !*k.Serves
}

// formatState returns the state of a key. For an active key that does not serve, it says so.
func formatState(k *aikeysv1.Key) string {
	if isHeldBack(k) && (k.NotServingReason == aikeysv1.NotServingReasonDisabled || k.NotServingReason == aikeysv1.NotServingReasonExpired) {
		return string(k.NotServingReason)
	}
	if isHeldBack(k) {
		return string(k.State) + ", can't serve"
	}
	return string(k.State)
}

// notServingReasons explains why an active key does not serve.
var notServingReasons = map[aikeysv1.NotServingReason]string{
	aikeysv1.NotServingReasonRevoked:           "it is revoked",
	aikeysv1.NotServingReasonDisabled:          "it is disabled",
	aikeysv1.NotServingReasonExpired:           "it has expired",
	aikeysv1.NotServingReasonUserKeysForbidden: "the policy forbids members' own keys",
	aikeysv1.NotServingReasonUserKeyRequired:   "the policy requires members' own keys",
	aikeysv1.NotServingReasonRejected:          "the provider rejected it when it was tested; it is still used, until it is revoked",
}

// explain returns the text for a reason. If this version does not know the reason, explain returns the reason itself.
func explain[T ~string](texts map[T]string, reason T) string {
	return cmp.Or(texts[reason], string(reason))
}

// isFailing reports whether the provider has refused the key since its last successful use.
func isFailing(k *aikeysv1.Key) bool {
	return k.LastFailure != nil && k.LastFailure.At.After(k.LastUsedAt)
}

// formatRefusal returns the status of a refusal, with its meaning if the status is not enough.
func formatRefusal(f *aikeysv1.KeyFailure) string {
	switch f.Reason {
	case aikeysv1.KeyFailureReasonQuotaExhausted:
		return fmt.Sprintf("%d (no balance)", f.Status)
	case aikeysv1.KeyFailureReasonLeaked:
		return fmt.Sprintf("%d (seen in public)", f.Status)
	case aikeysv1.KeyFailureReasonRejected, aikeysv1.KeyFailureReasonForbidden:
	}
	return strconv.Itoa(f.Status)
}

func lastUseCell(k *aikeysv1.Key, now time.Time) cell {
	if isFailing(k) {
		return cell{"refused " + formatRefusal(k.LastFailure) + ", " + relativeTime(k.LastFailure.At, now), red}
	}
	return cell{relativeTime(k.LastUsedAt, now), plain}
}

func (p *program) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get <key>",
		Short: "Show a key",
		Long: `Shows everything about an active or revoked key except its secret. For a revoked or disabled key, that includes the
receipt, for which --wait waits.`,
		Example: `  tare api byok get byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  tare api byok get byok_01M83VVAHV8M2T5K7N9R4W1XYZ --wait 10s`,
	}
	wait := addPendingWait(cmd)
	return p.keyCommand(cmd, "", func(ctx context.Context, s *session, id string) error {
		reply, err := p.getKey(ctx, s, id, *wait)
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printKey(&reply.Key) })
	})
}

// getKey returns a key. While the receipt is pending, the service may hold its response for the time held.
func (p *program) getKey(ctx context.Context, s *session, id string, held time.Duration) (*aikeysv1.GetResponse, error) {
	ctx, cancel, wait := p.withHold(ctx, held)
	defer cancel()
	return s.AIKeys().With(wait).Get(ctx, s.customer, s.project, id)
}

func (p *program) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify <key>",
		Short: "Test a key at its provider",
		Long: `Tests a registered key at its provider, with a request that costs nothing, and shows the key with the verdict, which the
service stores. A verdict of "rejected" changes nothing else: the key stays in use until you revoke it, and the exit code
is 0. A key can be tested once in 10 seconds.`,
		Example: "  tare api byok verify byok_01M83VVAHV8M2T5K7N9R4W1XYZ",
	}
	return p.keyCommand(cmd, aikeysv1.KeyStateActive, func(ctx context.Context, s *session, id string) error {
		ctx, cancel := p.withTimeout(ctx)
		defer cancel()
		reply, err := s.AIKeys().Verify(ctx, s.customer, s.project, id)
		if err != nil {
			return err
		}
		return p.printResponse(s, func() error { return p.printKey(&reply.Key) })
	})
}

func (p *program) printKey(k *aikeysv1.Key) error {
	now := time.Now()
	look := green
	if k.State == aikeysv1.KeyStateRevoked || isHeldBack(k) {
		look = red
	}
	owner := "the project's"
	if k.UserScope {
		owner = k.CreatedBy + "'s own"
	}
	serves, refused := "", cell{}
	if isHeldBack(k) {
		serves = "no: " + explain(notServingReasons, k.NotServingReason)
	}
	if f := k.LastFailure; f != nil {
		refused.text = formatTime(f.At, now) + " with " + formatRefusal(f)
		if isFailing(k) {
			refused.style = red
		}
	}
	details := []detail{
		{"ID", cell{k.ID, plain}},
		{"Provider", cell{string(k.Provider), plain}},
		{"Name", cell{k.Name, plain}},
		{"Secret", cell{formatSuffix(k), plain}},
		{"State", cell{formatState(k), look}},
		{"Scope", cell{owner, plain}},
		{"Project", cell{k.CustomerID + "/" + k.ProjectID, plain}},
		{"Created", cell{formatTimeBy(k.CreatedAt, k.CreatedBy, now), plain}},
		{"Last used", cell{formatTime(k.LastUsedAt, now), plain}},
		{"Serves", cell{serves, red}},
		{"Tested", verificationCell(k.Verification, now)},
		{"Last refused", refused},
		{"Revoked", cell{formatTimeBy(k.RevokedAt, k.RevokedBy, now), plain}},
		{"Disabled", cell{formatTimeBy(k.DisabledAt, k.DisabledBy, now), plain}},
		{"Expires", cell{formatTime(k.ExpiresAt, now), plain}},
		{"Order", cell{formatNonZero("%d", k.Order), plain}},
		{"Weight", cell{formatNonZero("%d", k.Weight), plain}},
	}
	if r := k.Restrict; r != nil {
		details = append(details, detail{"Users", cell{formatNonZero("only %s", strings.Join(r.Users, ", ")), plain}},
			detail{"Models", cell{formatNonZero("only %s", strings.Join(r.Models, ", ")), plain}},
			detail{"Operations", cell{formatNonZero("only %s", strings.Join(r.Operations, ", ")), plain}})
	}
	if l := k.Limit; l != nil {
		details = append(details, detail{"Limit", cell{formatNonZero("%d requests a minute", l.RequestsPerMinute), plain}},
			detail{"Limit", cell{formatNonZero("%d requests a day", l.RequestsPerDay), plain}},
			detail{"Limit", cell{formatNonZero("%d requests at once", l.Concurrent), plain}})
	}
	details = append(details, detail{"Unused", cell{formatNonZero("stale since %s", formatTime(k.StaleSince, now)), yellow}})
	if k.DisableReceipt != nil {
		details = append(details, receiptDetails(receiptOf(k), now)...)
	}
	return p.printDetails(append(details, receiptDetails(k.Receipt, now)...))
}

// verificationCell returns the verdict of a test with its reason, such as "valid (restricted)".
func verificationCell(v *aikeysv1.Verification, now time.Time) cell {
	if v == nil {
		return cell{}
	}
	text := string(v.Verdict)
	switch {
	case v.Reason == aikeysv1.VerdictReasonOff:
		return cell{"no: the service makes no tests", plain}
	case v.Reason != "":
		text += " (" + strings.ReplaceAll(string(v.Reason), "_", " ") + ")"
	}
	look := plain
	switch v.Verdict {
	case aikeysv1.VerdictValid:
		look = green
	case aikeysv1.VerdictRejected:
		look = red
	case aikeysv1.VerdictUnreachable:
	}
	return cell{text + ", " + formatTime(v.CheckedAt, now), look}
}
