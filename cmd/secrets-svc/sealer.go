package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/agentrouter/aikeys/cmd/internal/settings"
	"github.com/agentrouter/aikeys/internal/lifecycle"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/kms"
	"github.com/agentrouter/aikeys/sealer/kmsurl"
	"github.com/agentrouter/aikeys/sealer/local"
)

// sealerLocal names the sealer whose keys are in the folder of keysets. Any other sealer is the URL of a key management service, in which
// placeholder stands for the namespace.
const (
	sealerLocal = "local"
	placeholder = "{namespace}"
)

const sealerForms = sealerLocal + ", or with " + placeholder + " in the name of the key: " + kmsurl.Forms

// checkSealer checks the settings of sealers without opening any.
func (s *config) checkSealer() (complaints []string) {
	complaints = checkSealerText(s.Of("sealer"), s.Sealer)
	for _, text := range s.SealerOld {
		complaints = append(complaints, checkSealerText(s.Of("sealer-old"), text)...)
		if text == s.Sealer {
			complaints = append(complaints, s.Of("sealer-old").Given()+": names the same sealer as "+s.Of("sealer").Given())
		}
	}
	return complaints
}

func checkSealerText(setting *settings.Setting, text string) []string {
	switch {
	case text == sealerLocal:
		return nil
	case !kmsurl.Knows(text):
		return []string{setting.Given() + ": must be " + sealerForms}
	case !strings.Contains(text, placeholder):
		return []string{setting.Given() + ": must have " + placeholder + " in the name of the key, so that each namespace has a key of its own"}
	}
	if err := kmsurl.Check(strings.ReplaceAll(text, placeholder, "main")); err != nil {
		return []string{setting.Given() + ": " + err.Error()}
	}
	return nil
}

// openSealer opens the sealer of a namespace, and the old sealers, which open the envelopes that they have sealed. It
// creates no keyset, and does not connect. It adds the functions that close the sealers to closers.
func (s *config) openSealer(ctx context.Context, namespace string, log *slog.Logger, closers *lifecycle.Closers) (sealer.Sealer, error) {
	current, err := s.openOne(ctx, s.Sealer, namespace, log, closers)
	if err != nil {
		return nil, err
	}
	var old []sealer.Sealer
	for _, text := range s.SealerOld {
		one, err := s.openOne(ctx, text, namespace, log, closers)
		if err != nil {
			return nil, err
		}
		old = append(old, one)
	}
	return sealer.Migrating(current, old...), nil
}

func (s *config) openOne(ctx context.Context, text, namespace string, log *slog.Logger, closers *lifecycle.Closers) (sealer.Sealer, error) {
	if text == sealerLocal {
		return local.OpenWith(keysetPath(s.Keys, namespace), local.Options{MustExist: true, Log: log})
	}
	opened, err := kmsurl.Open(ctx, strings.ReplaceAll(text, placeholder, namespace), kms.Options{CacheTTL: s.SealerCache}, log)
	if err != nil {
		return nil, err
	}
	closers.Add(opened.Close)
	return opened, nil
}
