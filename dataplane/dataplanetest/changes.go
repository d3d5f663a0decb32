package dataplanetest

import (
	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// Publish announces a change in a transaction of its own, which it returns.
func (cp *ControlPlane) Publish(m gen.StreamMessage) (tx int64) {
	return cp.change(func() gen.StreamMessage { return m })
}

// change makes a change and announces it, in one transaction.
func (cp *ControlPlane) change(do func() gen.StreamMessage) (tx int64) {
	cp.update(func() {
		tx = cp.begin()
		cp.commit(tx, do())
	})
	return tx
}

// RegisterKey registers a key and returns its id.
func (cp *ControlPlane) RegisterKey(k Key) (id string) {
	orElse(&k.CustomerID, "acme")
	orElse(&k.ProjectID, "chat")
	orElse(&k.Provider, "openai")
	orElse(&k.BaseURL, "https://api.openai.com/v1")
	orElse(&k.AuthStyle, "bearer")
	cp.change(func() gen.StreamMessage {
		held := &heldKey{Key: k, id: "byok_" + cp.mint()}
		orElse(&held.Secret, "sk-EXAMPLE-"+held.id)
		cp.keys = append(cp.keys, held)
		id = held.id
		return held.message(keyRegistered)
	})
	return id
}

// RevokeKey revokes a key and returns the transaction.
func (cp *ControlPlane) RevokeKey(id string) (tx int64) {
	return cp.change(func() gen.StreamMessage { return cp.revoke(id) })
}

func (s *state) revoke(id string) gen.StreamMessage {
	k := s.key(id)
	k.revoked = true
	return k.message(keyRevoked)
}

// FailKey marks a key as failing, as if a provider had refused it.
func (cp *ControlPlane) FailKey(id string) (tx int64) {
	return cp.change(func() gen.StreamMessage {
		k := cp.key(id)
		k.bad = true
		return k.message(keyFailing)
	})
}

// SetPolicy sets a project's policy.
func (cp *ControlPlane) SetPolicy(customer, project string, p Policy) (tx int64) {
	return cp.change(func() gen.StreamMessage {
		cp.policies[[2]string{customer, project}] = p
		return message(policySet, customer, project, "")
	})
}

// SetMember adds a user to a project.
func (cp *ControlPlane) SetMember(customer, project, user string) (tx int64) {
	return cp.change(func() gen.StreamMessage {
		cp.members[[3]string{customer, project, user}] = true
		return message(memberSet, customer, project, user)
	})
}

// RemoveMember removes a user from a project.
func (cp *ControlPlane) RemoveMember(customer, project, user string) (tx int64) {
	return cp.change(func() gen.StreamMessage {
		delete(cp.members, [3]string{customer, project, user})
		return message(memberRemoved, customer, project, user)
	})
}

// AddCredential adds a caller's credential, and makes the caller a member of the project.
func (cp *ControlPlane) AddCredential(text string, c Credential) {
	orElse(&c.CustomerID, "acme")
	orElse(&c.ProjectID, "chat")
	orElse(&c.UserID, "alice")
	cp.SetMember(c.CustomerID, c.ProjectID, c.UserID)
	cp.change(func() gen.StreamMessage {
		held := &heldToken{Credential: c}
		if !c.Session {
			held.id = cp.mint()
		}
		if c.Valid > 0 {
			held.until = cp.now() + c.Valid
		}
		cp.tokens[text] = held
		m := message(tokenCreated, c.CustomerID, c.ProjectID, c.UserID)
		m.TokenID = optional(held.id)
		return m
	})
}

// RevokeCredential revokes a caller's API key.
func (cp *ControlPlane) RevokeCredential(text string) (tx int64) {
	return cp.change(func() gen.StreamMessage {
		held := cp.tokens[text]
		held.revoked = true
		m := message(tokenRevoked, held.CustomerID, held.ProjectID, held.UserID)
		m.TokenID = &held.id
		return m
	})
}

// ServeCustomers limits the data plane to these customers.
func (cp *ControlPlane) ServeCustomers(customers ...string) {
	cp.update(func() {
		cp.customers = map[string]bool{}
		for _, c := range customers {
			cp.customers[c] = true
		}
	})
}

// Position returns the position of everything committed so far.
func (cp *ControlPlane) Position() string {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	return cp.position()
}

// Forget deletes the history: a stream that resumes from before it gets a reset.
func (cp *ControlPlane) Forget() {
	cp.update(func() {
		for _, m := range cp.history {
			cp.forgotten = append(cp.forgotten, *m.Tx)
		}
		cp.base += len(cp.history)
		cp.history = nil
	})
}

// Transaction is a transaction that has begun. No position contains it until the test commits it.
type Transaction struct {
	cp *ControlPlane
	// Tx is its number.
	Tx int64
}

// Begin begins a transaction.
func (cp *ControlPlane) Begin() *Transaction {
	tx := &Transaction{cp: cp}
	cp.update(func() { tx.Tx = cp.begin() })
	return tx
}

// RevokeKey revokes a key and commits.
func (tx *Transaction) RevokeKey(id string) {
	tx.cp.update(func() { tx.cp.commit(tx.Tx, tx.cp.revoke(id)) })
}

// Rollback ends the transaction without a change.
func (tx *Transaction) Rollback() {
	tx.cp.update(func() { delete(tx.cp.open, tx.Tx) })
}
