package models_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// report reports keys as a data plane.
func (f *fixture) report(d models.DataPlane, reports ...models.KeyReport) error {
	return failure(f.ReportKeys(f.t.Context(), d, reports, func(kind models.EventType, k models.Key, caller models.ReportedCaller) models.Event {
		return f.event(kind, about(k.ID), func(e *models.Event) {
			e.ScopeUserID, e.MemberID, e.TokenID = k.UserID, caller.UserID, caller.TokenID
		})
	}))
}

// reported returns when a key was last used and last failed, and with which status.
func (f *fixture) reported(k models.Key) [3]int64 {
	f.t.Helper()
	got, err := f.GetKey(f.t.Context(), models.Caller{CustomerID: k.CustomerID, ProjectID: k.ProjectID, UserID: k.CreatedBy}, k.ID, now())
	require.NoError(f.t, err)
	return [3]int64{got.LastUsedAt, got.LastFailureAt, int64(got.LastFailureStatus)}
}

func second(n int64) int64 { return n * time.Second.Microseconds() }

func TestReportKeysIgnoresKeysNotServed(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		globex := models.Caller{CustomerID: "globex", ProjectID: web, UserID: "gus"}
		f.addMember(globex, models.RoleOwner)
		ours, theirs := f.register(f.shared(olga)), f.register(f.shared(globex))
		at, when := f.position(), now()
		require.NoError(t, f.report(f.dataPlane("ours", []string{acme}),
			models.KeyReport{KeyID: "byok_absent", UsedAt: when}, models.KeyReport{KeyID: theirs.ID, FailedAt: when, FailureStatus: 401},
			models.KeyReport{KeyID: "", UsedAt: when}, models.KeyReport{KeyID: ours.ID, UsedAt: when}))
		require.Equal(t, [3]int64{when, 0, 0}, f.reported(ours))
		require.Zero(t, f.reported(theirs))
		require.NoError(t, f.report(f.dataPlane("none", []string{}), models.KeyReport{KeyID: ours.ID, FailedAt: when + 1}))
		require.NoError(t, f.report(f.dataPlane("all", nil)))
		require.Equal(t, [3]int64{when, 0, 0}, f.reported(ours))
		require.Empty(t, keyIDs(f.changes(&at)))
	})
}

func TestTimesOfReportsOnlyMoveOn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key, when := f.dataPlane("all", nil), f.register(f.own(mia)), now()-second(100)
		for _, c := range []struct {
			report models.KeyReport
			want   [3]int64
		}{
			{models.KeyReport{UsedAt: when}, [3]int64{when, 0, 0}},
			{models.KeyReport{UsedAt: when - second(50)}, [3]int64{when, 0, 0}},
			{models.KeyReport{}, [3]int64{when, 0, 0}},
			{models.KeyReport{UsedAt: when + second(5) - 1}, [3]int64{when, 0, 0}}, // too soon after the stored use
			{models.KeyReport{UsedAt: when + second(5)}, [3]int64{when + second(5), 0, 0}},
			{models.KeyReport{FailedAt: when, FailureStatus: 403}, [3]int64{when + second(5), when, 403}},
			{models.KeyReport{FailedAt: when - 1, FailureStatus: 401}, [3]int64{when + second(5), when, 403}},
			{models.KeyReport{UsedAt: when + second(6), FailedAt: when + 7, FailureStatus: 401}, [3]int64{when + second(6), when + 7, 401}},
		} {
			c.report.KeyID = key.ID
			require.NoError(t, f.report(d, c.report))
			require.Equal(t, c.want, f.reported(key), "%+v", c.report)
		}
	})
}

func TestAKeyThatBeginsToFailHasOneEventUntilALaterUse(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.own(mia))
		at, when := f.position(), now()-second(60)
		failed := func(after int64) models.KeyReport {
			return models.KeyReport{KeyID: key.ID, FailedAt: when + second(after), FailureStatus: 401}
		}
		used := func(after int64) models.KeyReport {
			return models.KeyReport{KeyID: key.ID, UsedAt: when + second(after)}
		}
		for _, c := range []struct {
			name   string
			report models.KeyReport
			begins bool
		}{
			{"used", used(10), false},
			{"failed before that", failed(5), false},
			{"failed", failed(11), true},
			{"failed again", failed(12), false},
			{"used before that", used(11), false},
			{"used again, at once", used(13), false},
			{"failed anew", failed(14), true},
		} {
			require.NoError(t, f.report(d, c.report))
			want := []string{}
			if c.begins {
				want = append(want, key.ID)
			}
			require.Equal(t, want, keyIDs(f.changes(&at)), c.name)
		}
		events, err := f.ListEvents(t.Context(), mia, models.EventFilter{}, "", 1)
		require.NoError(t, err)
		require.Equal(t, models.EventKeyFailing, events[0].Type)
		require.NoError(t, f.report(d, models.KeyReport{KeyID: key.ID, FailedAt: now() - second(1), UsedAt: now()}))
		require.Empty(t, keyIDs(f.changes(&at)), "failed, but used later")
	})
}

// If several data planes report a key at the same time, ReportKeys returns the key as failing to only one of them. So
// the consequences happen only once.
func TestOneReportLearnsThatAKeyBeginsToFail(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key, fine, when := f.dataPlane("all", nil), f.register(f.own(mia)), f.register(f.own(mia)), now()
		newEvent := func(kind models.EventType, k models.Key, _ models.ReportedCaller) models.Event {
			return f.event(kind, about(k.ID))
		}
		begun := together(8, func(int) []models.Key {
			failing, err := f.ReportKeys(t.Context(), d, []models.KeyReport{
				{KeyID: key.ID, FailedAt: when, FailureStatus: 401}, {KeyID: fine.ID, UsedAt: when},
			}, newEvent)
			require.NoError(t, err)
			return failing
		})
		failing := slices.Concat(begun...)
		require.Len(t, failing, 1)
		require.Equal(t, []string{key.ID, acme, web, mia.UserID}, []string{failing[0].ID, failing[0].CustomerID, failing[0].ProjectID, failing[0].UserID})
		require.Empty(t, failing[0].Envelope)
	})
}

func TestKeySentBackHasOneEventInAnHour(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key, second := f.dataPlane("all", nil), f.register(f.shared(olga)), f.register(f.own(mia))
		// The hour is in the future, because ids never go back.
		hour := time.UnixMicro(now()).UTC().Truncate(time.Hour).Add(2 * time.Hour).UnixMicro()
		expose := func(k models.Key, at int64, user string) error {
			report := models.KeyReport{KeyID: k.ID, ExposedAt: at, ExposedFor: models.ReportedCaller{UserID: user, TokenID: "t"}}
			return failure(f.ReportKeys(t.Context(), d, []models.KeyReport{report}, func(kind models.EventType, k models.Key, c models.ReportedCaller) models.Event {
				return f.event(kind, about(k.ID), func(e *models.Event) {
					e.ID, e.At = f.ids.Next(models.EventIDPrefix, time.UnixMicro(at)), at
					e.ScopeUserID, e.MemberID, e.TokenID = k.UserID, c.UserID, c.TokenID
				})
			}))
		}
		const oneHour = int64(time.Hour / time.Microsecond)
		require.NoError(t, expose(key, hour-1, "early"))
		for _, err := range together(8, func(int) error { return expose(key, hour, "mia") }) {
			require.NoError(t, err)
		}
		require.NoError(t, expose(second, hour, "mia"))
		require.NoError(t, expose(key, hour+oneHour-1, "late"))
		require.NoError(t, expose(key, hour+oneHour, "next"))
		events, err := f.ListEvents(t.Context(), mia, models.EventFilter{}, "", 100)
		require.NoError(t, err)
		got := map[string]int{}
		for _, e := range events {
			if e.Type == models.EventKeyExposed {
				got[e.KeyID+" "+e.MemberID+" "+e.TokenID]++
			}
		}
		require.Equal(t, map[string]int{key.ID + " early t": 1, key.ID + " mia t": 1, key.ID + " next t": 1, second.ID + " mia t": 1}, got)
		require.Zero(t, f.reported(key), "it says nothing of how the key fares")
	})
}

func TestAFailureThatIsLongPastMakesNoEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d, key := f.dataPlane("all", nil), f.register(f.shared(olga))
		at := f.position()
		require.NoError(t, f.report(d, models.KeyReport{KeyID: key.ID, FailedAt: now() - second(3600), FailureStatus: 401}))
		require.Empty(t, keyIDs(f.changes(&at)))
		require.NoError(t, f.report(d, models.KeyReport{KeyID: key.ID, FailedAt: now(), FailureStatus: 401}))
		require.Equal(t, []string{key.ID}, keyIDs(f.changes(&at)))
	})
}

// Eight data planes report the same keys, each in a different order.
func TestReportKeysByManyStoresOneEvent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const reporters, rounds = 8, 5
		d := f.dataPlane("all", nil)
		var keys []models.Key
		for range 6 {
			keys = append(keys, f.register(f.shared(olga)))
		}
		at, when := f.position(), now()-second(60)
		for _, err := range together(reporters, func(reporter int) error {
			for round := range int64(rounds) {
				reports := make([]models.KeyReport, len(keys))
				for to, from := range rand.Perm(len(keys)) {
					reports[to] = models.KeyReport{KeyID: keys[from].ID, FailedAt: when + round*100 + int64(reporter), FailureStatus: 401}
				}
				if err := f.report(d, reports...); err != nil {
					return err
				}
			}
			return nil
		}) {
			require.NoError(t, err)
		}
		require.ElementsMatch(t, ids(keys), keyIDs(f.changes(&at)))
		for _, k := range keys {
			require.Equal(t, [3]int64{0, when + (rounds-1)*100 + reporters - 1, 401}, f.reported(k))
		}
	})
}
