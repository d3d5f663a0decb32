package models_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models"
)

// certified makes a data plane one that client certificates identify.
func certified(name string) func(*models.DataPlane) {
	return func(d *models.DataPlane) { d.Hash, d.Certificate = nil, name }
}

func TestADataPlaneIsReadAsItWasStored(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		var want []models.DataPlane
		for name, customers := range map[string][]string{"all": nil, "none": {}, "some": {acme, "globex"}} {
			d := f.dataPlane(name, customers, expiring(now()+1e9))
			want = append(want, d)
			got, err := f.FindDataPlane(t.Context(), d.ID)
			require.NoError(t, err)
			require.Equal(t, d, got)
			require.Equal(t, name != "none", got.Serves(acme))
			require.Equal(t, name == "all", got.Serves("initech"))
		}
		all, err := f.ListDataPlanes(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, all, "by age")
		_, err = f.FindDataPlane(t.Context(), "absent")
		require.ErrorIs(t, err, models.ErrNotFound)
	})
}

func TestActiveDataPlanesHaveNamesOfTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		first := f.dataPlane("eu", nil)
		again := first
		again.ID = f.ids.Next("", time.Now())
		create := func() error {
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.CreateDataPlane(again) })
		}
		require.ErrorIs(t, create(), models.ErrAlreadyExists)
		_, err := f.revokeDataPlane("eu")
		require.NoError(t, err)
		require.NoError(t, create(), "a revoked one leaves its name")
		_, err = f.revokeDataPlane("eu")
		require.NoError(t, err)
		require.Equal(t, 2, f.count("data_planes"))
	})
}

func TestADataPlaneIsFoundByTheNamesInItsCertificate(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		edge := f.dataPlane("edge", []string{acme}, certified("dns:edge.internal"))
		other := f.dataPlane("other", nil, certified("cn:other"), expiring(1))
		f.dataPlane("with a token", nil)
		names := func(names ...string) (ids []string) {
			found, err := f.FindDataPlanesByCertificate(t.Context(), names)
			require.NoError(t, err)
			for _, d := range found {
				require.Empty(t, d.Hash)
				ids = append(ids, d.ID)
			}
			return ids
		}
		require.Equal(t, []string{edge.ID}, names("dns:unknown.internal", "dns:edge.internal"))
		require.ElementsMatch(t, []string{edge.ID, other.ID}, names("dns:edge.internal", "cn:other"), "expired ones included")
		require.Empty(t, names("cn:edge.internal", "dns:EDGE.internal", "dns:edge", "", "%"))
		require.Empty(t, names())
		got, err := f.FindDataPlane(t.Context(), edge.ID)
		require.NoError(t, err)
		require.Equal(t, "dns:edge.internal", got.Certificate)
		require.True(t, got.Serves(acme))
		_, err = f.revokeDataPlane("edge")
		require.NoError(t, err)
		require.Empty(t, names("dns:edge.internal"))
	})
}

func TestWhoMadeAndWhoRevokedADataPlaneIsOnRecord(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		made := f.dataPlane("eu", nil, func(d *models.DataPlane) { d.CreatedBy = "bob@there" })
		revoked, err := f.revokeDataPlane("eu")
		require.NoError(t, err)
		_, err = f.revokeDataPlane("eu")
		require.ErrorIs(t, err, models.ErrNotFound)
		got, err := f.FindDataPlane(t.Context(), made.ID)
		require.NoError(t, err)
		require.Equal(t, revoked, got)
		require.Equal(t, []string{"bob@there", "alice@host"}, []string{got.CreatedBy, got.RevokedBy})
	})
}

func TestStreamsAreCountedByDataPlane(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		eu, us := f.dataPlane("eu", nil), f.dataPlane("us", nil)
		f.dataPlane("idle", nil)
		for i, d := range []models.DataPlane{eu, us, eu} {
			require.NoError(t, f.OpenStream(t.Context(), models.Stream{ID: fmt.Sprint(i), DataPlaneID: d.ID, ReplicaID: "r"}, ""))
		}
		counts, err := f.CountStreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int{eu.ID: 2, us.ID: 1}, counts)
	})
}

func TestActiveDataPlanesHaveCertificatesOfTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.dataPlane("eu", nil, certified("dns:edge.internal"), expiring(1))
		create := func(name, certificate string) error {
			d := models.DataPlane{ID: f.ids.Next("", time.Now()), Name: name, Certificate: certificate, CreatedAt: now()}
			return f.Transact(t.Context(), func(tx *models.Tx) error { return tx.CreateDataPlane(d) })
		}
		require.ErrorIs(t, create("us", "dns:edge.internal"), models.ErrAlreadyExists, "as long as it is not revoked, expired or not")
		require.NoError(t, create("us", "cn:edge.internal"), "a name of another kind is another")
		_, err := f.revokeDataPlane("eu")
		require.NoError(t, err)
		outcomes := together(8, func(i int) error { return create(fmt.Sprint("eu", i), "dns:edge.internal") })
		made := 0
		for _, err := range outcomes {
			if err == nil {
				made++
				continue
			}
			require.ErrorIs(t, err, models.ErrAlreadyExists)
		}
		require.Equal(t, 1, made, "a revoked one leaves its certificate to one")
	})
}

func TestADataPlaneIsRevokedOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		d := f.dataPlane("eu", []string{acme})
		other := f.dataPlane("us", []string{acme})
		_, err := f.revokeDataPlane("asia")
		require.ErrorIs(t, err, models.ErrNotFound)
		done := make([]models.DataPlane, 8)
		var ok int
		for i, err := range together(len(done), func(i int) (err error) { done[i], err = f.revokeDataPlane("eu"); return err }) {
			if err != nil {
				require.ErrorIs(t, err, models.ErrNotFound)
				continue
			}
			ok++
			stands, err := f.FindDataPlane(t.Context(), d.ID)
			require.NoError(t, err)
			require.Equal(t, done[i], stands)
			require.InDelta(t, now(), stands.RevokedAt, 60e6)
			require.False(t, stands.Live(now()))
		}
		require.Equal(t, 1, ok, "the first revocation stands")
		untouched, err := f.FindDataPlane(t.Context(), other.ID)
		require.NoError(t, err)
		require.Equal(t, other, untouched)
	})
}

func TestLiveDataPlanesAreNeitherRevokedNorExpired(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		const noon = 1_000_000
		forever, lasting := f.dataPlane("forever", nil), f.dataPlane("lasting", nil, expiring(noon+1))
		ending, revoked := f.dataPlane("ending", nil, expiring(noon)), f.dataPlane("revoked", nil)
		_, err := f.revokeDataPlane("revoked")
		require.NoError(t, err)
		f.dataPlane("not asked for", nil)

		live, err := f.LiveDataPlanes(t.Context(), []string{forever.ID, lasting.ID, ending.ID, revoked.ID, "absent"}, noon)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{forever.ID, lasting.ID}, live)
		for d, want := range map[*models.DataPlane]bool{&forever: true, &lasting: true, &ending: false} {
			require.Equal(t, want, d.Live(noon), d.Name)
		}
		live, err = f.LiveDataPlanes(t.Context(), nil, noon)
		require.NoError(t, err)
		require.Empty(t, live)
	})
}
