package main

import (
	"github.com/agentrouter/aikeys/impl/rewrap"
	"github.com/agentrouter/aikeys/models"
)

// sealReport says how keys are sealed. KEKs is nil if that could not be found out; the other lists are nil if they were not
// asked for.
type sealReport struct {
	KEKs       []rewrap.KEKKeys    `json:"keks"`
	Unreadable []rewrap.Unreadable `json:"unreadable,omitempty"`
	Keys       []keyReport         `json:"keys,omitempty"`
}

type keyReport struct {
	ID        string `json:"id"`
	UserScope string `json:"user_scope,omitempty"`
	Provider  string `json:"provider"`
	Name      string `json:"name"`
	State     string `json:"state"`
	SealState string `json:"seal_state"`
	KEKID     string `json:"kek_id"`
	Reason    string `json:"reason,omitempty"`
	// Version is left out for the first. A rotated key has a report for each version that has an envelope.
	Version uint32 `json:"version,omitempty"`
}

func newKeyReport(k models.Key, seal rewrap.EnvelopeStatus) keyReport {
	state := models.KeyActive
	if k.RevokedAt != 0 {
		state = models.KeyRevoked
	}
	number := k.Version
	if number == 1 {
		number = 0
	}
	return keyReport{ID: k.ID, Version: number, UserScope: k.UserID, Provider: k.Provider, Name: k.Name, State: string(state),
		SealState: string(seal.State), KEKID: seal.KEKID, Reason: seal.Reason()}
}

// print prints a table of the KEKs, then a table of the keys that can't be read if there are any, and one of all keys if
// the user asked for it.
func (r sealReport) print(p *program, keys bool) error {
	table := p.NewTable("\nKEK", "STATE", "CURRENT", "OLD_KEK", "UNREADABLE")
	for _, k := range r.KEKs {
		table.Row(k.ID, string(k.State), formatCount(k.Current), formatCount(k.OldKEK), formatCount(k.Unreadable))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := r.printUnreadable(p); err != nil {
		return err
	}
	if !keys {
		return nil
	}
	table = p.NewTable("\nKEY", "USER", "PROVIDER", "NAME", "STATE", "SEAL STATE", "KEK", "WHY")
	for _, k := range r.Keys {
		table.Row(k.ID, orDash(k.UserScope), k.Provider, k.Name, k.State, k.SealState, k.KEKID, orDash(k.Reason))
	}
	return table.Flush()
}

func (r sealReport) printUnreadable(p *program) error {
	if len(r.Unreadable) == 0 {
		return nil
	}
	table := p.NewTable("\nUNREADABLE KEY", "CUSTOMER", "PROJECT", "KEK", "WHY")
	for _, u := range r.Unreadable {
		table.Row(u.KeyID, u.CustomerID, u.ProjectID, u.KEKID, u.Reason)
	}
	return table.Flush()
}
