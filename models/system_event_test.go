package models_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// systemEvents returns the system events, oldest first, without those of migrations. It checks the ids and times, and
// clears them.
func (f *fixture) systemEvents(filter models.SystemEventFilter) []models.SystemEvent {
	f.t.Helper()
	found, err := f.ListSystemEvents(f.t.Context(), filter, 1000)
	require.NoError(f.t, err)
	var trail []models.SystemEvent
	for _, e := range found {
		require.Regexp(f.t, `^evt_[0-9A-Z]{26}$`, e.ID)
		require.WithinDuration(f.t, time.Now(), time.UnixMicro(e.At), time.Hour)
		if e.ID, e.At = "", 0; e.Type != models.EventSchemaMigrated {
			trail = append([]models.SystemEvent{e}, trail...)
		}
	}
	return trail
}

func TestDataPlanesAreInTheSystemTrail(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		expires := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		edge := f.dataPlane("edge", []string{acme, "globex"}, expiring(expires.UnixMicro()))
		all := f.dataPlane("all", nil, func(d *models.DataPlane) { d.Hash, d.Certificate = nil, "dns:all.internal" })
		err := f.Transact(t.Context(), func(tx *models.Tx) error {
			return tx.CreateDataPlane(models.DataPlane{ID: "again", Name: "edge", CreatedAt: now()})
		})
		require.ErrorIs(t, err, models.ErrAlreadyExists)
		_, err = f.revokeDataPlane("edge")
		require.NoError(t, err)
		_, err = f.revokeDataPlane("edge")
		require.ErrorIs(t, err, models.ErrNotFound)

		event := func(what models.EventType, id, before, after string) models.SystemEvent {
			return models.SystemEvent{Type: what, Actor: ops.Operator, Command: ops.Command, Subject: id, Before: before, After: after}
		}
		const stateOfEdge = `{"name":"edge","customers":["acme","globex"],"expires_at":"2030-01-02T03:04:05Z"}`
		require.Equal(t, []models.SystemEvent{
			event(models.EventDataPlaneCreated, edge.ID, "null", stateOfEdge),
			event(models.EventDataPlaneCreated, all.ID, "null", `{"name":"all","certificate":"dns:all.internal","all_customers":true}`),
			event(models.EventDataPlaneRevoked, edge.ID, stateOfEdge, "null"),
		}, f.systemEvents(models.SystemEventFilter{}), "what was refused is not there")
	})
}

func TestOperatorsActsAreInTheSystemTrail(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		byOperator := func(e *models.Event) { e.ActorMethod = models.MethodAdmin }
		key := f.register(f.shared(olga))
		f.transact(func(tx *models.Tx) error {
			_, err := tx.RevokeKey(&key, ops.Operator, f.event(models.EventKeyRevoked, about(key.ID), byOperator))
			return err
		})
		f.transact(func(tx *models.Tx) error {
			return tx.RemoveMember(acme, web, "mia", f.event(models.EventMemberRemoved, byOperator, func(e *models.Event) { e.MemberID = "mia" }))
		})
		event := models.SystemEvent{Actor: ops.Operator, Command: ops.Command, CustomerID: acme, ProjectID: web, Before: "null", After: "null"}
		revoked, removed := event, event
		revoked.Type, revoked.Subject = models.EventKeyRevoked, key.ID
		removed.Type, removed.Subject, removed.Before = models.EventMemberRemoved, "mia", `{"role":"member"}`
		require.Equal(t, []models.SystemEvent{revoked, removed}, f.systemEvents(models.SystemEventFilter{}), "what members did is not there")
	})
}

func TestMigrationsAreInTheSystemTrail(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		by := models.Process{Operator: "ops@host-1", Command: "aikeysd migrate up"}
		f := open(t, e.URL(t), models.Options{Timeout: time.Minute, Process: by})
		applied, err := f.Migrate(t.Context())
		require.NoError(t, err)
		trail, err := f.ListSystemEvents(t.Context(), models.SystemEventFilter{Type: models.EventSchemaMigrated}, applied)
		require.NoError(t, err)
		require.NotEmpty(t, trail, "each migration from the one that made the trail")
		for i, e := range trail {
			require.Equal(t, []string{by.Operator, by.Command}, []string{e.Actor, e.Command})
			require.JSONEq(t, models.StateInJSON(map[string]int{"version": applied - i}), e.After)
			require.JSONEq(t, models.StateInJSON(map[string]int{"version": applied - i - 1}), e.Before)
		}
	})
}

// Replicas see a change of the key-encryption keys at the same time. One of them records it.
func TestKEKChangesAreRecordedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.transact(func(tx *models.Tx) error {
			_, err := tx.KeepCanary(models.Canary{Envelope: []byte("sealed"), KEKID: "kek-1"})
			return err
		})
		states := []map[string]string{
			{"kek-1": "primary"}, {"kek-1": "enabled", "kek-2": "primary"}, {"kek-1": "retired", "kek-2": "primary"}, {"kek-1": "primary"},
		}
		for _, keks := range states {
			recorded := 0
			for _, changed := range together(8, func(int) bool {
				changed, err := f.RecordKEKs(t.Context(), keks)
				return changed && err == nil
			}) {
				if changed {
					recorded++
				}
			}
			require.Equal(t, 1, recorded)
		}
		trail := f.systemEvents(models.SystemEventFilter{Type: models.EventKEKsChanged})
		require.Len(t, trail, len(states))
		before := "null"
		for i, e := range trail {
			require.Equal(t, before, e.Before)
			require.Equal(t, models.StateInJSON(states[i]), e.After)
			before = e.After
		}
	})
}

func TestSystemEventFilters(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for _, e := range []models.SystemEvent{
			{Type: models.EventProjectRead, CustomerID: acme, ProjectID: web, Subject: "1"},
			{Type: models.EventRewrapStarted, Subject: "2"},
			{Type: models.EventProjectRead, CustomerID: acme, ProjectID: "ios", Subject: "3"},
		} {
			require.NoError(t, f.RecordSystemEvent(t.Context(), e))
		}
		second, err := f.ListSystemEvents(t.Context(), models.SystemEventFilter{Type: models.EventRewrapStarted}, 1)
		require.NoError(t, err)
		at := second[0].At
		for name, c := range map[string]struct {
			filter models.SystemEventFilter
			limit  int
			want   []string // newest first
		}{
			"none, the newest":     {models.SystemEventFilter{}, 2, []string{"3", "2"}},
			"type":                 {models.SystemEventFilter{Type: models.EventProjectRead}, 9, []string{"3", "1"}},
			"actor":                {models.SystemEventFilter{Actor: ops.Operator}, 9, []string{"3", "2", "1"}},
			"another actor":        {models.SystemEventFilter{Actor: "ops"}, 9, nil},
			"customer":             {models.SystemEventFilter{CustomerID: acme}, 9, []string{"3", "1"}},
			"project":              {models.SystemEventFilter{CustomerID: acme, ProjectID: web}, 9, []string{"1"}},
			"from, which counts":   {models.SystemEventFilter{From: at}, 9, []string{"3", "2"}},
			"to, which does not":   {models.SystemEventFilter{Actor: ops.Operator, To: at}, 9, []string{"1"}},
			"after the last":       {models.SystemEventFilter{From: 1 << 62}, 9, nil},
			"of one type and time": {models.SystemEventFilter{Type: models.EventProjectRead, From: at}, 9, []string{"3"}},
		} {
			found, err := f.ListSystemEvents(t.Context(), c.filter, c.limit)
			require.NoError(t, err, name)
			var subjects []string
			for _, e := range found {
				subjects = append(subjects, e.Subject)
			}
			require.Equal(t, c.want, subjects, name)
		}
	})
}
