package aikeys

import (
	"context"
	"strconv"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models"
)

// defaultFetches is the default of page_size for fetches, as the OpenAPI document states it.
const defaultFetches = 50

// ListFetches returns a page of the records of fetches, to an owner.
func (s *server) ListFetches(ctx context.Context, req gen.ListFetchesRequestObject) (gen.ListFetchesResponseObject, error) {
	size := req.Params.PageSize
	if size == nil {
		size = new(defaultFetches)
	}
	page, err := parsePage(size, req.Params.PageToken, func(id string) bool { return parseFetchID(id) > 0 })
	if err != nil {
		return nil, err
	}
	filter, err := s.fetchFilter(req.Params, page)
	if err != nil {
		return nil, err
	}
	caller, err := s.caller(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	role, err := s.store.Role(ctx, caller, s.now().UnixMicro())
	if err != nil {
		return nil, err
	}
	if role != models.RoleOwner {
		return nil, errReadFetches
	}
	fetches, err := s.store.ListFetches(ctx, caller.CustomerID, caller.ProjectID, filter)
	if err != nil {
		return nil, err
	}
	fetches, next := cut(page, fetches, func(r models.FetchRecord) string { return strconv.FormatInt(r.ID, 10) })
	names, err := s.store.DataPlaneNames(ctx, convert(fetches, func(r models.FetchRecord) string { return r.DataPlaneID }))
	if err != nil {
		return nil, err
	}
	wire := func(r models.FetchRecord) gen.Fetch { return wireFetch(r, names[r.DataPlaneID]) }
	return gen.ListFetches200JSONResponse{Fetches: convert(fetches, wire), NextPageToken: next}, nil
}

func (s *server) fetchFilter(params gen.ListFetchesParams, page page) (f models.FetchFilter, err error) {
	f.Before, f.Limit = parseFetchID(page.after), page.limit()
	if params.KeyID != nil {
		f.KeyID = parseKeyID(*params.KeyID)
	}
	if params.UserID != nil {
		f.UserID = *params.UserID
	}
	if params.DataPlane != nil {
		f.DataPlane = *params.DataPlane
	}
	if params.Provider != nil {
		if f.Provider, err = s.parseProvider(*params.Provider); err != nil {
			return f, err
		}
	}
	if params.Decision != nil {
		f.Decision = models.Outcome(*params.Decision)
	}
	f.From, f.To, err = parsePeriod(params.From, params.To)
	return f, err
}

// parseFetchID returns the id of a record, or 0 if the text is not an id.
func parseFetchID(text string) int64 {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return id
}

func wireFetch(r models.FetchRecord, dataPlane string) gen.Fetch {
	return gen.Fetch{
		At: wireTime(r.At), DataPlaneID: r.DataPlaneID, DataPlane: optional(dataPlane), Decision: string(r.Decision), Reason: r.Reason,
		Provider: r.Provider, KeyID: optional(r.KeyID), Version: optional(int(r.Version)), UserID: optional(r.UserID), TokenID: optional(r.TokenID),
		RequestID: r.RequestID, DerivedUntil: optionalTime(r.DerivedUntil),
	}
}
