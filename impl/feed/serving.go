package feed

import (
	"context"
	"maps"
	"slices"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/models"
)

// maxCounted is how many customers a heartbeat counts streams of, so that it stays small.
const maxCounted = 300

// serving is how many streams there are, each of which enforces its share of a key's limits. It never changes.
type serving struct {
	streams, everybody int            // everybody is how many of the streams are of data planes that serve all customers
	byCustomer         map[string]int // of customers that a data plane is limited to, those for everybody included
}

// countServing counts the streams of all replicas. The next heartbeat says what has changed.
func (f *Feed) countServing(ctx context.Context) error {
	found, err := f.store.CountServingStreams(ctx)
	if err != nil {
		return err
	}
	now := &serving{byCustomer: map[string]int{}}
	for _, of := range found {
		now.streams += of.Streams
		if of.Customers == nil {
			now.everybody += of.Streams
		}
		for _, customer := range of.Customers {
			now.byCustomer[customer] += of.Streams
		}
	}
	for customer := range now.byCustomer {
		now.byCustomer[customer] += now.everybody
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.serving; old == nil || f.joined || old.streams != now.streams || old.everybody != now.everybody ||
		!maps.Equal(old.byCustomer, now.byCustomer) {
		f.serving, f.joined = now, false
	}
	return nil
}

// countsFor returns what a heartbeat tells a data plane. uncounted is how many of its own streams n lacks. Where there are too many customers
// to count, it says that all streams serve each: shares are too small then, and never too large.
func (n *serving) countsFor(d models.DataPlane, uncounted int) (others *int, byCustomer []gen.DataPlanesOfCustomer) {
	customers := d.Customers
	if customers == nil {
		customers = slices.Sorted(maps.Keys(n.byCustomer))
	}
	if len(customers) > maxCounted {
		return new(max(n.streams+uncounted, 1)), nil
	}
	for _, customer := range customers {
		count, ok := n.byCustomer[customer]
		if !ok {
			count = n.everybody
		}
		byCustomer = append(byCustomer, gen.DataPlanesOfCustomer{CustomerID: customer, DataPlanes: count + uncounted})
	}
	return new(max(n.everybody+uncounted, 1)), byCustomer
}
