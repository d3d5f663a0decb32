package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/models"
)

// The project of the playground.
const (
	devCustomer = "acme"
	devProject  = "chat"
	devOwner    = "alice"
	devMember   = "bob"
)

// The variables of a session file. The first two are what SDKs read.
const (
	envBaseURL   = "AGENTROUTER_BASE_URL"
	envAPIKey    = "AGENTROUTER_API_KEY" //nolint:gosec // G101: the name of a variable
	envMemberKey = "AGENTROUTER_MEMBER_API_KEY"
	envGateway   = "AGENTROUTER_GATEWAY_URL"
)

// devSession is what a developer needs to call the service.
type devSession struct {
	path                         string // of its file
	baseURL, ownerKey, memberKey string
	gatewayURL                   string
}

// seed makes the project and its members where they are missing, and returns API keys for both: those of the last start
// when they still work, else new ones.
func (s *service) seed(ctx context.Context, path, gatewayURL string) (devSession, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return devSession{}, err
	}
	last, err := readSession(path)
	if err != nil {
		return devSession{}, err
	}
	now := devSession{path: path, baseURL: s.api.URL(), gatewayURL: gatewayURL}
	if now.ownerKey, err = s.seedUser(ctx, devOwner, models.RoleOwner, last.ownerKey); err != nil {
		return devSession{}, err
	}
	if now.memberKey, err = s.seedUser(ctx, devMember, models.RoleMember, last.memberKey); err != nil {
		return devSession{}, err
	}
	return now, now.write()
}

// seedUser sees to it that a user is a member, without touching the role of one who is, and returns an API key of theirs.
func (s *service) seedUser(ctx context.Context, user string, role models.Role, lastKey string) (string, error) {
	who := models.Caller{CustomerID: devCustomer, ProjectID: devProject, UserID: user}
	opened, err := s.sessions.Authenticate(ctx, "Bearer "+lastKey)
	if err != nil && !errors.Is(err, auth.ErrUnauthenticated) {
		return "", err
	}
	reuse := err == nil && opened.CustomerID == devCustomer && opened.ProjectID == devProject && opened.UserID == user
	var ids models.IDs
	key := apiKey{text: lastKey}
	err = s.store.Transact(ctx, func(tx *models.Tx) error {
		_, err := tx.Role(who)
		if errors.Is(err, models.ErrNotMember) {
			err = setMember(tx, &ids, who, role)
		}
		if err == nil && !reuse {
			key, err = createToken(tx, &ids, who, 0)
		}
		return err
	})
	return key.text, err
}

// readSession reads the file of the last start; an empty session when there is none.
func readSession(path string) (devSession, error) {
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return devSession{}, fmt.Errorf("session file: %w", err)
	}
	last := devSession{path: path}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		switch name {
		case envBaseURL:
			last.baseURL = value
		case envAPIKey:
			last.ownerKey = value
		case envMemberKey:
			last.memberKey = value
		case envGateway:
			last.gatewayURL = value
		}
	}
	return last, nil
}

// write puts the session into its file.
func (d devSession) write() error {
	return writePrivate(d.path, fmt.Sprintf("# Written by aikeysd dev; load it with: . %s\nexport %s=%s\nexport %s=%s\nexport %s=%s\nexport %s=%s\n",
		shellQuote(d.path), envBaseURL, d.baseURL, envAPIKey, d.ownerKey, envMemberKey, d.memberKey, envGateway, d.gatewayURL))
}

// writePrivate writes a file that appears whole, and readable by its owner alone.
func writePrivate(path, content string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".session-*.tmp") // has mode 0600
	if err != nil {
		return fmt.Errorf("session file: %w", err)
	}
	_, err = file.WriteString(content)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the error above tells more
		return fmt.Errorf("session file: %w", err)
	}
	return nil
}

// shellQuote makes one word of text, for a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
