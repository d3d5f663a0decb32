package models_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// openTestingStream opens a stream of a data plane that tests keys.
func (f *fixture) openTestingStream(d models.DataPlane) {
	f.openStream("of "+d.ID, d, "r", "", func(s *models.Stream) { s.TestsKeys = true })
}

func keyTest(id string) models.KeyTest {
	return models.KeyTest{ID: id, CustomerID: acme, ProjectID: web, UserID: "olga", Provider: "openai", Envelope: []byte("sealed"), WaitUntil: now() + time.Second.Microseconds()}
}

func TestKeyTestsHaveOneDataPlane(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		claim := func(d models.DataPlane, id string) (models.KeyTest, error) {
			return f.ClaimKeyTest(t.Context(), d.ID, id, now())
		}
		answer := func(d models.DataPlane, id string) error {
			return f.AnswerKeyTest(t.Context(), d.ID, id, "valid", "restricted")
		}
		all, of, other, old := f.dataPlane("all", nil), f.dataPlane("of", []string{acme}), f.dataPlane("other", []string{"globex"}), f.dataPlane("old", nil)
		f.openStream("old", old, "r", "")
		f.openTestingStream(other)
		require.ErrorIs(t, f.AddKeyTest(t.Context(), keyTest("1")), models.ErrNoDataPlane)
		f.openTestingStream(all)
		require.NoError(t, f.AddKeyTest(t.Context(), keyTest("1")))
		waiting, err := f.WaitingKeyTests(t.Context(), now())
		require.NoError(t, err)
		require.Len(t, waiting, 1)
		require.Empty(t, waiting[0].Envelope)

		for name, d := range map[string]models.DataPlane{"another customer's": other, "without tests": old, "not connected": of} {
			_, err := claim(d, "1")
			require.ErrorIs(t, err, models.ErrNotFound, name)
		}
		require.ErrorIs(t, answer(all, "1"), models.ErrNotFound, "not claimed")
		late := now() + 20*time.Second.Microseconds()
		_, err = f.ClaimKeyTest(t.Context(), all.ID, "1", late)
		require.ErrorIs(t, err, models.ErrNotFound, "nobody waits for it")
		waiting, err = f.WaitingKeyTests(t.Context(), late)
		require.NoError(t, err)
		require.Empty(t, waiting)
		got, err := claim(all, "1")
		require.NoError(t, err)
		require.Equal(t, "sealed", string(got.Envelope))
		require.Equal(t, all.ID, got.ClaimedBy)
		require.Empty(t, query[[]byte](t, models.Conn(f.Store), "SELECT envelope FROM key_tests")[0])
		f.openTestingStream(of)
		for _, d := range []models.DataPlane{all, of} {
			_, err = claim(d, "1")
			require.ErrorIs(t, err, models.ErrNotFound, "claimed")
		}
		waiting, err = f.WaitingKeyTests(t.Context(), now())
		require.NoError(t, err)
		require.Empty(t, waiting)

		require.ErrorIs(t, answer(of, "1"), models.ErrNotFound, "another's claim")
		require.NoError(t, answer(all, "1"))
		require.ErrorIs(t, answer(all, "1"), models.ErrNotFound, "twice")
		got, err = f.FindKeyTest(t.Context(), "1")
		require.NoError(t, err)
		require.Equal(t, []string{"valid", "restricted", ""}, []string{got.Verdict, got.Reason, string(got.Envelope)})
		require.NoError(t, f.DropKeyTest(t.Context(), "1"))
		_, err = f.FindKeyTest(t.Context(), "1")
		require.ErrorIs(t, err, models.ErrNotFound)

		require.NoError(t, f.AddKeyTest(t.Context(), keyTest("2")))
		_, err = f.revokeDataPlane("all")
		require.NoError(t, err)
		_, err = claim(all, "2")
		require.ErrorIs(t, err, models.ErrDataPlaneEnded)
		waiting, err = f.WaitingKeyTests(t.Context(), now()+2*time.Minute.Microseconds())
		require.NoError(t, err)
		require.Empty(t, waiting)
		require.Zero(t, f.count("key_tests"), "kept for too long")
	})
}

func TestOneOfManyClaimsAKeyTest(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("all", nil)
		f.openTestingStream(d)
		require.NoError(t, f.AddKeyTest(t.Context(), keyTest("1")))
		var (
			group             sync.WaitGroup
			claimed, answered atomic.Int32
		)
		together := func(count *atomic.Int32, try func() error) {
			for range 8 {
				group.Go(func() {
					if err := try(); err == nil {
						count.Add(1)
					} else if !errors.Is(err, models.ErrNotFound) {
						t.Error(err)
					}
				})
			}
			group.Wait()
		}
		together(&claimed, func() error {
			got, err := f.ClaimKeyTest(t.Context(), d.ID, "1", now())
			if err == nil && string(got.Envelope) != "sealed" {
				return errors.New("claimed without the envelope")
			}
			return err
		})
		together(&answered, func() error { return f.AnswerKeyTest(t.Context(), d.ID, "1", "valid", "") })
		require.Equal(t, [2]int32{1, 1}, [2]int32{claimed.Load(), answered.Load()})
	})
}
