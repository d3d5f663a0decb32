package aikeys

import (
	"context"
	"strconv"
	"time"

	"github.com/oapi-codegen/runtime/types"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models"
)

// ListUsage returns a page of the usage. An owner gets the whole project's usage, another member their own.
func (s *server) ListUsage(ctx context.Context, req gen.ListUsageRequestObject) (gen.ListUsageResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, maxPageSize, req.Params.PageToken, func(text string) bool {
		_, ok := models.ParseUsageKey(text)
		return ok
	})
	if err != nil {
		return nil, err
	}
	filter, err := s.usageFilter(req.Params, page)
	if err != nil {
		return nil, err
	}
	caller, role, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if role != models.RoleOwner && filter.UserID == "" {
		filter.UserID = caller.UserID
	}
	if role != models.RoleOwner && filter.UserID != caller.UserID {
		return nil, errReadUsage
	}
	usage, err := s.Store.ListUsage(ctx, caller.CustomerID, caller.ProjectID, filter)
	if err != nil {
		return nil, err
	}
	usage, next := cut(page, usage, func(u models.Usage) string { return u.String() })
	return gen.ListUsage200JSONResponse{Usage: convert(usage, wireUsage), NextPageToken: next}, nil
}

func (s *server) usageFilter(params gen.ListUsageParams, page page) (filter models.UsageFilter, err error) {
	filter.Limit = page.limit()
	filter.After, _ = models.ParseUsageKey(page.after) // parsePage has checked it
	filter.KeyID, filter.UserID = parseKeyID(orZero(params.KeyID)), orZero(params.UserID)
	if filter.Provider, err = s.parseProvider(params.Provider); err != nil {
		return filter, err
	}
	filter.From, filter.To, err = parsePeriod(params.From, params.To)
	return filter, err
}

func wireUsage(u models.Usage) gen.Usage {
	return gen.Usage{
		Day: types.Date{Time: time.Unix(u.Day*int64(24*time.Hour/time.Second), 0).UTC()}, KeyID: u.KeyID, Provider: u.Provider,
		UserID: optional(u.UserID), Requests: u.Requests, Refusals: u.Refusals, LastUsedAt: wireTime(u.LastUsedAt),
	}
}

// ListFetches shows an owner a page of the records of fetches.
func (s *server) ListFetches(ctx context.Context, req gen.ListFetchesRequestObject) (gen.ListFetchesResponseObject, error) {
	page, err := parsePage(req.Params.PageSize, defaultEvents, req.Params.PageToken, func(id string) bool { return parseFetchID(id) > 0 })
	if err != nil {
		return nil, err
	}
	filter, err := s.fetchFilter(req.Params, page)
	if err != nil {
		return nil, err
	}
	caller, role, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	if role != models.RoleOwner {
		return nil, errReadFetches
	}
	fetches, err := s.Store.ListFetches(ctx, caller.CustomerID, caller.ProjectID, filter)
	if err != nil {
		return nil, err
	}
	fetches, next := cut(page, fetches, func(r models.FetchRecord) string { return strconv.FormatInt(r.ID, 10) })
	names, err := s.Store.DataPlaneNames(ctx, convert(fetches, func(r models.FetchRecord) string { return r.DataPlaneID }))
	if err != nil {
		return nil, err
	}
	wire := func(r models.FetchRecord) gen.Fetch { return wireFetch(r, names[r.DataPlaneID]) }
	return gen.ListFetches200JSONResponse{Fetches: convert(fetches, wire), NextPageToken: next}, nil
}

func (s *server) fetchFilter(params gen.ListFetchesParams, page page) (f models.FetchFilter, err error) {
	f.Before, f.Limit = parseFetchID(page.after), page.limit()
	f.KeyID, f.UserID, f.DataPlane = parseKeyID(orZero(params.KeyID)), orZero(params.UserID), orZero(params.DataPlane)
	f.Decision = models.Outcome(orZero(params.Decision))
	if f.Provider, err = s.parseProvider(params.Provider); err != nil {
		return f, err
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
