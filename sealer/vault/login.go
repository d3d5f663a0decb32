package vault

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/openbao/openbao/api/v2"

	"github.com/agentrouter/aikeys/internal/secretfile"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
)

// session holds the token of this process. It logs in at the first call, renews the token after two thirds of its lifetime, and logs in
// again if the renewal fails or the server refuses the token.
type session struct {
	cfg    Config
	client *api.Client // without a token

	mu      sync.Mutex // guards the fields below; held during a login, so that other calls wait for it
	token   string
	renewAt time.Time // zero for a token that does not expire
}

// open returns a client with a token, which the server may have revoked.
func (s *session) open(ctx context.Context) (client *api.Client, token string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cfg.TokenFile != "":
		text, err := secretfile.Read(s.cfg.TokenFile) // at each call, since another program renews the token
		if err != nil {
			return nil, "", fmt.Errorf("%w: token file: %w", kms.ErrRefused, err)
		}
		s.token = strings.TrimSpace(string(text))
		clear(text)
		if s.token == "" || strings.ContainsAny(s.token, " \t\r\n") {
			return nil, "", fmt.Errorf("%w: token file %s has no token, or more than that", kms.ErrRefused, s.cfg.TokenFile)
		}
	case s.token == "":
		err = s.login(ctx)
	case !s.renewAt.IsZero() && time.Now().After(s.renewAt):
		if s.renew(ctx) != nil {
			err = s.login(ctx)
		}
	}
	if err != nil {
		return nil, "", err
	}
	return s.withToken(s.token), s.token, nil
}

// forget drops a refused token, so that the next call logs in. It reports whether a retry may help. If another call has
// already replaced the token, it drops nothing.
func (s *session) forget(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.TokenFile != "" {
		text, err := secretfile.Read(s.cfg.TokenFile)
		return err == nil && strings.TrimSpace(string(text)) != token
	}
	if s.token == token {
		s.token = ""
	}
	return true
}

func (s *session) withToken(token string) *api.Client {
	client := s.client.WithNamespace(s.cfg.Namespace)
	client.SetToken(token)
	return client
}

// login logs in with AppRole or Kubernetes. The files are read each time: they may have been renewed.
func (s *session) login(ctx context.Context) error {
	data := map[string]any{}
	if s.cfg.KubernetesRole != "" {
		// Everyone in the pod may read the file that Kubernetes mounts, so secretfile.Read would refuse it.
		jwt, err := os.ReadFile(s.cfg.JWTFile)
		if err != nil {
			return fmt.Errorf("%w: token of the service account: %w", kms.ErrRefused, err)
		}
		data["role"], data["jwt"] = s.cfg.KubernetesRole, strings.TrimSpace(string(jwt))
	} else {
		secretID, err := secretfile.Read(s.cfg.SecretIDFile)
		if err != nil {
			return fmt.Errorf("%w: secret id: %w", kms.ErrRefused, err)
		}
		data["role_id"], data["secret_id"] = s.cfg.RoleID, strings.TrimSpace(string(secretID))
	}
	path := "auth/" + s.cfg.AuthMount + "/login"
	answer, err := s.withToken("").Logical().WriteWithContext(ctx, path, data)
	if status := statusOf(err); status >= 400 && status < 500 && status != 429 && status != 412 {
		return fmt.Errorf("%w: login at %s: status %d; check the role and that its credential is valid", kms.ErrRefused, path, status)
	}
	if err != nil {
		return unreached(err)
	}
	return s.keep(answer)
}

func (s *session) renew(ctx context.Context) error {
	answer, err := s.withToken(s.token).Logical().WriteWithContext(ctx, "auth/token/renew-self", nil)
	if err != nil {
		return err
	}
	return s.keep(answer)
}

func (s *session) keep(answer *api.Secret) error {
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return fmt.Errorf("%w: it answered a login without a token", sealer.ErrUnavailable)
	}
	s.token, s.renewAt = answer.Auth.ClientToken, time.Time{}
	if lease := time.Duration(answer.Auth.LeaseDuration) * time.Second; lease > 0 {
		s.renewAt = time.Now().Add(lease * 2 / 3)
	}
	return nil
}
