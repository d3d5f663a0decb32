package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/models"
)

func (p *program) keyCommand() *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "key",
		Short: "List and revoke provider keys",
		Long: `Lists and revokes provider keys in an emergency: when the API can't be reached, or when nobody who may revoke them is
left. It can't read their secrets.`,
		Example: `  aikeysd admin key list --customer acme --project chat
  aikeysd admin key revoke byok_01M83VVAHV8M2T5K7N9R4W1XYZ`,
	}, p.keyListCommand(), p.keyRevokeCommand())
}

// keyPage is how many keys are read at once.
const keyPage = 1000

func (p *program) keyListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the provider keys of a project",
		Long: `Lists the provider keys of a project and of all its users, newest first, with those that are revoked, disabled or
expired. USER is the owner of a user key; a dash marks a project key.`,
		Example: `  aikeysd admin key list --customer acme --project chat`,
	}
	a := p.newProjectAdmin(cmd)
	a.reads = true
	return a.command(cmd, nil, func(ctx context.Context) error {
		table := a.NewTable("ID", "PROVIDER", "USER", "STATE", "CREATED", "CREATED BY", "LAST USED", "REVOKED BY", "SUFFIX", "NAME")
		for before := ""; ; {
			page, err := a.store.ListAllKeys(ctx, a.customer, a.project, before, keyPage)
			if err != nil {
				return err
			}
			for _, k := range page {
				table.Row(k.ID, k.Provider, orDash(k.UserID), keyState(k), formatTime(k.CreatedAt), k.CreatedBy,
					formatTime(k.LastUsedAt), orDash(k.RevokedBy), k.DisplaySuffix, k.Name)
			}
			if len(page) < keyPage {
				return table.Flush()
			}
			before = page[len(page)-1].ID
		}
	})
}

func keyState(k models.Key) string {
	return cmp.Or(string(k.StopReason(time.Now().UnixMicro())), string(models.KeyActive))
}

// receiptPause is the time between two reads of a receipt.
const receiptPause = 20 * time.Millisecond

func (p *program) keyRevokeCommand() *cobra.Command {
	var (
		id   string
		wait time.Duration
	)
	cmd := &cobra.Command{
		Use:   "revoke <id>",
		Short: "Revoke a provider key",
		Long: `Revokes any provider key permanently, as its owner would through the API. Data planes drop it within a second. The
command waits for the receipt, which is complete when every data plane has confirmed or its lease has run out, and
prints how many have confirmed. If the receipt is not complete within --wait, the exit code is 1; the key is revoked in
any case. Revoking a key again changes nothing, and shows the receipt.`,
		Example: `  aikeysd admin key revoke byok_01M83VVAHV8M2T5K7N9R4W1XYZ
  aikeysd admin key revoke byok_01M83VVAHV8M2T5K7N9R4W1XYZ --wait 30s`,
	}
	a := p.newAdmin()
	cmd.Flags().DurationVar(&wait, "wait", 5*time.Second, "how long to wait for the receipt; 0s does not wait")
	a.command(cmd, func() error {
		if wait < 0 {
			return cli.Usagef("--wait: must be a duration such as 30s, or 0s")
		}
		return nil
	}, func(ctx context.Context) error {
		key, err := a.revokeKey(ctx, id)
		if err != nil {
			return err
		}
		receipt, err := a.awaitReceipt(ctx, key, wait)
		if err != nil {
			return fmt.Errorf("key %s is revoked, but its receipt can't be read: %w", key.ID, err)
		}
		a.Note("key %s (%s, %q) of %s/%s in %s is revoked since %s, by %s", key.ID, key.Provider, key.Name,
			key.CustomerID, key.ProjectID, databaseName(a.cfg.DatabaseURL), formatTime(key.RevokedAt), key.RevokedBy)
		confirmed := fmt.Sprintf("%d of %d data planes have confirmed", receipt.Acknowledged, receipt.DataPlanes)
		switch {
		case receipt.Complete:
			a.Note("the receipt is complete: %s", confirmed)
		case wait > 0:
			return fmt.Errorf("key %s is revoked, but its receipt is pending after %s: %s", key.ID, wait, confirmed)
		default:
			a.Note("the receipt is pending: %s", confirmed)
		}
		return nil
	})
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 || !models.ValidID(keyID(args[0])) {
			return errors.New("give one id of a key, as \"key list\" shows it; never give the key itself")
		}
		id = keyID(args[0])
		return nil
	}
	return cmd
}

// keyID returns a key's id, which may be given as a bare ULID.
func keyID(text string) string {
	return models.KeyIDPrefix + strings.TrimPrefix(text, models.KeyIDPrefix)
}

// revokeKey revokes a key and writes the same event as the API, in one transaction.
func (a *admin) revokeKey(ctx context.Context, id string) (key models.Key, err error) {
	err = a.store.Transact(ctx, func(tx *models.Tx) error {
		if key, err = tx.LockAnyKey(id); err != nil {
			return err
		}
		event := a.operator.event(tx, models.EventKeyRevoked, models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID})
		event.ScopeUserID, event.KeyID, event.Provider = key.UserID, key.ID, key.Provider
		_, err := tx.RevokeKey(&key, a.operator.name, event)
		return err
	})
	if errors.Is(err, models.ErrNotFound) {
		err = fmt.Errorf("no key has this id in %s; \"aikeysd admin key list\" shows those of a project", databaseName(a.cfg.DatabaseURL))
	}
	return key, err
}

// awaitReceipt returns the receipt of a committed revocation when the receipt is complete, or when wait has passed.
// This process does not run the feed. It only reads what the replicas of the service have stored.
func (a *admin) awaitReceipt(ctx context.Context, key models.Key, wait time.Duration) (feed.Receipt, error) {
	committed := time.Now() // or earlier
	receipts, err := feed.New(feed.Config{Store: a.store})
	if err != nil {
		return feed.Receipt{}, err
	}
	for {
		receipt, err := receipts.Receipt(ctx, key.Stop())
		waited := time.Since(committed)
		if err != nil || receipt.Complete || waited >= wait {
			return receipt, err
		}
		if waited > receipt.Remaining { // every lease from before the commit has run out
			receipt.Complete = true
			return receipt, nil
		}
		select {
		case <-ctx.Done():
			return receipt, ctx.Err()
		case <-time.After(receiptPause):
		}
	}
}
