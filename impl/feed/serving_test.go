package feed_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
)

// counts returns what a data plane was last told of how many serve a customer.
func (m *member) counts(customer string) (n int) { return countsIn(m.heartbeats(), customer) }

func countsIn(heartbeats []feedtest.Message, customer string) (n int) {
	for _, got := range heartbeats {
		if got.DataPlanes == nil {
			continue
		}
		n = *got.DataPlanes
		for _, of := range got.DataPlanesByCustomer {
			if of.CustomerID == customer {
				n = of.DataPlanes
			}
		}
	}
	return n
}

func TestHeartbeatsCountTheDataPlanesOfACustomer(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		one, two := e.replica(options{}), e.replica(options{})
		first := one.connect()
		require.NotNil(t, first.heartbeats()[0].DataPlanes, "the first heartbeat says it")
		second, limited := two.connect(), one.connect(acme, "globex")
		all := []*member{first, second, limited}
		requireCounts := func(acmes, others int) {
			t.Helper()
			e.eventually("counts", func() bool {
				for _, m := range all {
					if m.counts(acme) != acmes || m != limited && m.counts("other") != others {
						return false
					}
				}
				return true
			})
		}
		requireCounts(3, 2)
		for _, of := range limited.heartbeats() {
			for _, named := range of.DataPlanesByCustomer {
				require.Contains(t, []string{acme, "globex"}, named.CustomerID, "only its own customers")
			}
		}
		other := two.connect("initech")
		require.Equal(t, 3, countsIn(other.heartbeats()[:1], "initech"), "those for all customers, and this one")
		other.Leave()
		again := two.connect(acme)
		require.Equal(t, 4, countsIn(again.heartbeats()[:1], acme))
		requireCounts(4, 2)
		again.Leave()
		second.Leave()
		all = []*member{first, limited}
		requireCounts(2, 1)
		heartbeats := len(first.heartbeats())
		e.eventually("more heartbeats", func() bool { return len(first.heartbeats()) > heartbeats+2 })
		require.Nil(t, first.heartbeats()[heartbeats+2].DataPlanes, "nothing has changed")
	})
}

func TestTooManyCustomersToCountMakeSharesSmaller(t *testing.T) {
	onSQLite(t, func(t *testing.T, e *env) {
		r, customers := e.replica(options{}), make([]string, 301)
		for i := range customers {
			customers[i] = fmt.Sprint("c", i)
		}
		m := r.connect()
		r.connect(customers...)
		e.eventually("counts", func() bool { return m.counts(customers[0]) == 2 && m.counts("other") == 2 })
		var last []gen.DataPlanesOfCustomer
		for _, got := range m.heartbeats() {
			if got.DataPlanes != nil {
				last = got.DataPlanesByCustomer
			}
		}
		require.Empty(t, last)
	})
}
