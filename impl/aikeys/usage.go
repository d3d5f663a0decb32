package aikeys

import (
	"context"
	"time"

	"github.com/oapi-codegen/runtime/types"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models"
)

// ListUsage returns a page of the usage: the project's for an owner, and for other members what was served to them.
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
