"""The methods of the contract. "" as customer_id or project_id stands for the session's own."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    TypeVar,
    Union,
    overload,
)

from .. import _operations, models
from .._exchange import Listed, as_last_page, next_token
from .._operation import UNCHANGED, Operation, Unchanged, changed, changed_time, overlap_text, time_text, wait_text
from .._operations import KeyState, OnBadKey, OnLimited, Operations, ProviderSlug, Role, UserKeys
from ..errors import ArgumentError
from .transport import AsyncTransport

PAGE_SIZE = 100

Item = TypeVar("Item")


class _Resource:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _list(
        self,
        operation: Operation[Listed],
        arguments: Dict[str, Any],
        timeout: Optional[float],
        items_of: Callable[[Listed], List[Any]],
    ) -> Listed:
        """Return the page that the arguments ask for, or, if they ask for none, the items of all pages as one."""
        listed = await self._transport.send(operation.call(arguments, timeout=timeout))
        if arguments["page_size"] is not None or arguments["page_token"] is not None:
            return listed
        token = listed.next_page_token
        while token:
            arguments["page_token"] = token
            page = await self._transport.send(operation.call(arguments, timeout=timeout))
            items_of(listed).extend(items_of(page))
            token = next_token(token, page.next_page_token)
        return as_last_page(listed)


async def _each(
    page_at: Callable[[Optional[str]], Awaitable[Listed]], items_of: Callable[[Listed], List[Item]]
) -> AsyncIterator[Item]:
    """Yield the items of all pages. Each page is requested when it is needed."""
    token: Optional[str] = None
    while True:
        page = await page_at(token)
        for item in items_of(page):
            yield item
        token = next_token(token, page.next_page_token)
        if token is None:
            return


class AsyncAIKeys(_Resource):
    """Provider keys."""

    @overload
    async def register(
        self,
        customer_id: str,
        project_id: str,
        provider: ProviderSlug,
        name: str,
        secret: str,
        user_scope: bool = False,
        *,
        verify: Optional[bool] = None,
        force: Optional[bool] = None,
        expires_at: Union[str, datetime, None] = None,
        order: Optional[int] = None,
        weight: Optional[int] = None,
        restrict: Optional[Mapping[str, Sequence[str]]] = None,
        limit: Optional[Mapping[str, int]] = None,
        idempotency_key: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.RegisterResponse: ...

    @overload
    async def register(
        self,
        *,
        provider: ProviderSlug,
        name: str,
        secret: str,
        user_scope: bool = False,
        customer_id: str = "",
        project_id: str = "",
        verify: Optional[bool] = None,
        force: Optional[bool] = None,
        expires_at: Union[str, datetime, None] = None,
        order: Optional[int] = None,
        weight: Optional[int] = None,
        restrict: Optional[Mapping[str, Sequence[str]]] = None,
        limit: Optional[Mapping[str, int]] = None,
        idempotency_key: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.RegisterResponse: ...

    async def register(
        self,
        customer_id: str = "",
        project_id: str = "",
        provider: ProviderSlug = "",
        name: str = "",
        secret: str = "",
        user_scope: bool = False,
        *,
        verify: Optional[bool] = None,
        force: Optional[bool] = None,
        expires_at: Union[str, datetime, None] = None,
        order: Optional[int] = None,
        weight: Optional[int] = None,
        restrict: Optional[Mapping[str, Sequence[str]]] = None,
        limit: Optional[Mapping[str, int]] = None,
        idempotency_key: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.RegisterResponse:
        """Seal a provider's key and store it under a project, or as the caller's own with user_scope.

        Pass provider, name and secret as keywords, so that they can't be swapped by mistake.

        With verify, the service tests the secret at its provider first, and does not store a secret that the provider
        rejects, unless force is given. With expires_at, the key stops serving at that time. Of several keys, the one
        with the lowest order serves, among equals the newest; keys of one order that have a weight share the callers.
        With restrict, the key serves only these users, models and operations; with limit, it serves at most so many
        requests_per_minute, requests_per_day and concurrent requests.

        The call is safe to repeat: it sends an Idempotency-Key, by default a random one.
        """
        call = _operations.REGISTER_KEY.call(
            {
                "customer_id": customer_id,
                "project_id": project_id,
                "provider": provider,
                "name": name,
                "secret": secret,
                "user_scope": user_scope,
                "verify": verify,
                "force": force,
                "expires_at": time_text("expires_at", expires_at),
                "order": order,
                "weight": weight,
                "restrict": None if restrict is None else {name: [*each] for name, each in restrict.items()},
                "limit": None if limit is None else dict(limit),
            },
            idempotency_key=idempotency_key,
            timeout=timeout,
        )
        del secret  # An error's traceback holds this frame.
        return await self._transport.send(call)

    async def get(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        *,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.GetResponse:
        """Return one key's metadata, active or revoked. With wait, the service answers when its receipt is complete."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "id": id, "wait": wait_text(wait)}
        return await self._transport.send(_operations.GET_KEY.call(arguments, timeout=timeout))

    async def list(
        self,
        customer_id: str,
        project_id: str,
        *,
        provider: Optional[ProviderSlug] = None,
        state: Optional[KeyState] = None,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListResponse:
        """List the project's keys and the caller's own, newest first: all of them, or the page that is asked for.

        Listing all takes one request for each 1,000.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "provider": provider,
            "state": state,
            "page_size": page_size,
            "page_token": page_token,
        }
        return await self._list(_operations.LIST_KEYS, arguments, timeout, lambda page: page.keys)

    def iterate(
        self,
        customer_id: str,
        project_id: str,
        *,
        provider: Optional[ProviderSlug] = None,
        state: Optional[KeyState] = None,
        page_size: int = PAGE_SIZE,
        timeout: Optional[float] = None,
    ) -> AsyncIterator[models.Key]:
        """Yield the keys of all pages. Each page is requested when it is needed."""
        return _each(
            lambda token: self.list(
                customer_id,
                project_id,
                provider=provider,
                state=state,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            ),
            lambda page: page.keys,
        )

    async def update(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        *,
        name: Optional[str] = None,
        disabled: Optional[bool] = None,
        expires_at: Union[str, datetime, None, Unchanged] = UNCHANGED,
        order: Optional[int] = None,
        weight: Union[int, None, Unchanged] = UNCHANGED,
        restrict: Union[Mapping[str, Optional[Sequence[str]]], None, Unchanged] = UNCHANGED,
        limit: Union[Mapping[str, Optional[int]], None, Unchanged] = UNCHANGED,
        if_match: Optional[str] = None,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.UpdateResponse:
        """Change the given properties of a key, and return the key. An expires_at of None removes the expiry.

        Of several keys, the one with the lowest order serves, among equals the newest; keys of one order that have a
        weight share the callers. A weight of None removes the weight. The lists in restrict (users, models, operations)
        replace those of the key; None removes a list, and a restrict of None removes all. The same goes for limit.

        A key that is then disabled comes with its disable_receipt, for which wait waits as for a revocation's. With
        if_match, the key's etag, the call fails if others have changed the key since.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "id": id,
            "name": name,
            "disabled": disabled,
            "expires_at": changed_time("expires_at", expires_at),
            "order": order,
            "weight": changed(weight),
            "restrict": changed(restrict),
            "limit": changed(limit),
            "wait": wait_text(wait),
        }
        unchanged = name is None and disabled is None and expires_at is UNCHANGED and order is None
        if unchanged and weight is UNCHANGED and restrict is UNCHANGED and limit is UNCHANGED:
            raise ArgumentError("name, disabled, expires_at, order, weight, restrict or limit must be given")
        return await self._transport.send(_operations.UPDATE_KEY.call(arguments, if_match=if_match, timeout=timeout))

    async def revoke(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        *,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RevokeResponse:
        """Revoke a key permanently and return the receipt.

        With wait, in seconds or such as "500ms", the service answers only when every data plane has confirmed, or when
        that time is up. It is added to the timeout.
        """
        arguments = {"customer_id": customer_id, "project_id": project_id, "id": id, "wait": wait_text(wait)}
        return await self._transport.send(_operations.REVOKE_KEY.call(arguments, timeout=timeout))

    async def rotate(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        secret: str,
        *,
        activate: Optional[str] = None,
        overlap: Union[str, float, timedelta, None] = None,
        expires_at: Union[str, datetime, None, Unchanged] = UNCHANGED,
        if_match: Optional[str] = None,
        idempotency_key: Optional[str] = None,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RotateResponse:
        """Seal another secret as the key's next version.

        The service tests it at its provider first. If it is valid, the version serves; if the test has no result, the
        version stays pending. With activate "now" it serves at once, and with "manual" once it is activated. The
        replaced version is kept for overlap, in seconds or such as "15m", so that a rollback is possible. The receipt,
        for which wait waits, says when the old secret may be deleted at the provider.

        The call is safe to repeat: it sends an Idempotency-Key, by default a random one.
        """
        call = _operations.ROTATE_KEY.call(
            {
                "customer_id": customer_id,
                "project_id": project_id,
                "id": id,
                "secret": secret,
                "activate": activate,
                "overlap": overlap_text(overlap),
                "expires_at": changed_time("expires_at", expires_at),
                "wait": wait_text(wait),
            },
            idempotency_key=idempotency_key,
            if_match=if_match,
            timeout=timeout,
        )
        del secret  # An error's traceback holds this frame.
        return await self._transport.send(call)

    async def versions(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        *,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.VersionsResponse:
        """List the key's versions, newest first, with the receipt of its last rotation, for which wait waits."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "id": id, "wait": wait_text(wait)}
        return await self._transport.send(_operations.LIST_KEY_VERSIONS.call(arguments, timeout=timeout))

    async def activate_version(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        version: int,
        *,
        if_match: Optional[str] = None,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RotateResponse:
        """Activate a pending version, or a retiring one again."""
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "id": id,
            "version": version,
            "wait": wait_text(wait),
        }
        call = _operations.ACTIVATE_KEY_VERSION.call(arguments, if_match=if_match, timeout=timeout)
        return await self._transport.send(call)

    async def rollback(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        *,
        if_match: Optional[str] = None,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RotateResponse:
        """Activate the version that the active one replaced, while it is still retiring."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "id": id, "wait": wait_text(wait)}
        return await self._transport.send(_operations.ROLLBACK_KEY.call(arguments, if_match=if_match, timeout=timeout))

    async def destroy_version(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        version: int,
        *,
        if_match: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.DestroyVersionResponse:
        """Destroy a version that is not active. It can't be activated again."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "id": id, "version": version}
        call = _operations.DESTROY_KEY_VERSION.call(arguments, if_match=if_match, timeout=timeout)
        return await self._transport.send(call)

    async def verify(
        self, customer_id: str, project_id: str, id: str, *, timeout: Optional[float] = None
    ) -> models.VerifyResponse:
        """Test a stored key at its provider, and store the verdict with the key, which stays in use.

        A key can be tested once in ten seconds.
        """
        arguments = {"customer_id": customer_id, "project_id": project_id, "id": id}
        return await self._transport.send(_operations.VERIFY_KEY.call(arguments, timeout=timeout))

    async def resolve(
        self,
        customer_id: str,
        project_id: str,
        provider: ProviderSlug,
        *,
        explain: Optional[bool] = None,
        user_id: Optional[str] = None,
        limited: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ResolveResponse:
        """Show which key would serve the caller's request to a provider now, and why.

        With explain, candidates lists every key that could serve, and why each does or does not. With user_id, an owner
        sees which key serves another member. With limited, it shows which key serves while the one with this id is at
        a limit.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "provider": provider,
            "explain": "true" if explain else None,
            "user_id": user_id,
            "limited": limited,
        }
        return await self._transport.send(_operations.RESOLVE_KEY.call(arguments, timeout=timeout))


class AsyncPolicy(_Resource):
    """The project's policy."""

    async def get(self, customer_id: str, project_id: str, *, timeout: Optional[float] = None) -> models.PolicyResponse:
        """Return the policy in force."""
        arguments = {"customer_id": customer_id, "project_id": project_id}
        return await self._transport.send(_operations.GET_POLICY.call(arguments, timeout=timeout))

    async def set(
        self,
        customer_id: str,
        project_id: str,
        user_keys: Optional[UserKeys] = None,
        user_keys_by_provider: Optional[Mapping[str, UserKeys]] = None,
        on_bad_key: Optional[OnBadKey] = None,
        operations: Optional[Operations] = None,
        *,
        on_limited: Optional[OnLimited] = None,
        removal_grace_days: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> models.PolicyResponse:
        """Replace the whole policy. Values that are left out return to their defaults."""
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "user_keys": user_keys,
            "user_keys_by_provider": None if user_keys_by_provider is None else dict(user_keys_by_provider),
            "on_bad_key": on_bad_key,
            "on_limited": on_limited,
            "operations": operations,
            "removal_grace_days": removal_grace_days,
        }
        return await self._transport.send(_operations.SET_POLICY.call(arguments, timeout=timeout))


class AsyncEvents(_Resource):
    """The audit trail."""

    async def list(
        self,
        customer_id: str,
        project_id: str,
        *,
        key_id: Optional[str] = None,
        actor: Optional[str] = None,
        type: Optional[str] = None,
        outcome: Optional[str] = None,
        provider: Optional[ProviderSlug] = None,
        from_: Union[str, datetime, None] = None,
        to: Union[str, datetime, None] = None,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListEventsResponse:
        """Return a page of events, newest first: by default the 50 newest."""
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "key_id": key_id,
            "actor": actor,
            "type": type,
            "outcome": outcome,
            "provider": provider,
            "from": time_text("from_", from_),
            "to": time_text("to", to),
            "page_size": page_size,
            "page_token": page_token,
        }
        return await self._transport.send(_operations.LIST_EVENTS.call(arguments, timeout=timeout))

    def iterate(
        self,
        customer_id: str,
        project_id: str,
        *,
        key_id: Optional[str] = None,
        actor: Optional[str] = None,
        type: Optional[str] = None,
        outcome: Optional[str] = None,
        provider: Optional[ProviderSlug] = None,
        from_: Union[str, datetime, None] = None,
        to: Union[str, datetime, None] = None,
        page_size: int = PAGE_SIZE,
        timeout: Optional[float] = None,
    ) -> AsyncIterator[models.Event]:
        """Yield the events of all pages. Each page is requested when it is needed."""
        return _each(
            lambda token: self.list(
                customer_id,
                project_id,
                key_id=key_id,
                actor=actor,
                type=type,
                outcome=outcome,
                provider=provider,
                from_=from_,
                to=to,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            ),
            lambda page: page.events,
        )


class AsyncFetches(_Resource):
    """The records of which data planes fetched which keys. Owners only."""

    async def list(
        self,
        customer_id: str,
        project_id: str,
        *,
        key_id: Optional[str] = None,
        user_id: Optional[str] = None,
        data_plane: Optional[str] = None,
        provider: Optional[ProviderSlug] = None,
        decision: Optional[str] = None,
        from_: Union[str, datetime, None] = None,
        to: Union[str, datetime, None] = None,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListFetchesResponse:
        """Return a page of records, newest first: by default the 50 newest."""
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "key_id": key_id,
            "user_id": user_id,
            "data_plane": data_plane,
            "provider": provider,
            "decision": decision,
            "from": time_text("from_", from_),
            "to": time_text("to", to),
            "page_size": page_size,
            "page_token": page_token,
        }
        return await self._transport.send(_operations.LIST_FETCHES.call(arguments, timeout=timeout))

    def iterate(
        self,
        customer_id: str,
        project_id: str,
        *,
        key_id: Optional[str] = None,
        user_id: Optional[str] = None,
        data_plane: Optional[str] = None,
        provider: Optional[ProviderSlug] = None,
        decision: Optional[str] = None,
        from_: Union[str, datetime, None] = None,
        to: Union[str, datetime, None] = None,
        page_size: int = PAGE_SIZE,
        timeout: Optional[float] = None,
    ) -> AsyncIterator[models.Fetch]:
        """Yield the records of all pages. Each page is requested when it is needed."""
        return _each(
            lambda token: self.list(
                customer_id,
                project_id,
                key_id=key_id,
                user_id=user_id,
                data_plane=data_plane,
                provider=provider,
                decision=decision,
                from_=from_,
                to=to,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            ),
            lambda page: page.fetches,
        )


class AsyncUsage(_Resource):
    """How often each key served each user."""

    async def list(
        self,
        customer_id: str,
        project_id: str,
        *,
        key_id: Optional[str] = None,
        user_id: Optional[str] = None,
        provider: Optional[ProviderSlug] = None,
        from_: Union[str, datetime, None] = None,
        to: Union[str, datetime, None] = None,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListUsageResponse:
        """List the usage, newest day first: all of it, or the page that is asked for.

        An owner gets the project's usage, other members what was served to them. Listing all takes one request for each
        1,000 entries.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "key_id": key_id,
            "user_id": user_id,
            "provider": provider,
            "from": time_text("from_", from_),
            "to": time_text("to", to),
            "page_size": page_size,
            "page_token": page_token,
        }
        return await self._list(_operations.LIST_USAGE, arguments, timeout, lambda page: page.usage)

    def iterate(
        self,
        customer_id: str,
        project_id: str,
        *,
        key_id: Optional[str] = None,
        user_id: Optional[str] = None,
        provider: Optional[ProviderSlug] = None,
        from_: Union[str, datetime, None] = None,
        to: Union[str, datetime, None] = None,
        page_size: int = PAGE_SIZE,
        timeout: Optional[float] = None,
    ) -> AsyncIterator[models.Usage]:
        """Yield the entries of all pages. Each page is requested when it is needed."""
        return _each(
            lambda token: self.list(
                customer_id,
                project_id,
                key_id=key_id,
                user_id=user_id,
                provider=provider,
                from_=from_,
                to=to,
                page_size=page_size,
                page_token=token,
                timeout=timeout,
            ),
            lambda page: page.usage,
        )


class AsyncMembers(_Resource):
    """The project's members and their roles."""

    async def list(
        self,
        customer_id: str,
        project_id: str,
        *,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListMembersResponse:
        """List the members by user id: all of them, or the page that is asked for.

        Listing all takes one request for each 1,000.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "page_size": page_size,
            "page_token": page_token,
        }
        return await self._list(_operations.LIST_MEMBERS, arguments, timeout, lambda page: page.members)

    def iterate(
        self, customer_id: str, project_id: str, *, page_size: int = PAGE_SIZE, timeout: Optional[float] = None
    ) -> AsyncIterator[models.Member]:
        """Yield the members of all pages. Each page is requested when it is needed."""
        return _each(
            lambda token: self.list(customer_id, project_id, page_size=page_size, page_token=token, timeout=timeout),
            lambda page: page.members,
        )

    async def set(
        self, customer_id: str, project_id: str, user_id: str, role: Role, *, timeout: Optional[float] = None
    ) -> models.MemberResponse:
        """Add a member, or change their role."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "user_id": user_id, "role": role}
        return await self._transport.send(_operations.SET_MEMBER.call(arguments, timeout=timeout))

    async def remove(
        self,
        customer_id: str,
        project_id: str,
        user_id: str,
        *,
        grace_days: Optional[int] = None,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RemoveMemberResponse:
        """Remove a member from the project, and suspend their own keys and API keys there.

        restore can undo that for grace_days, or else for the days in the project's policy, 30 by default. There is one
        receipt for all of it, for which wait waits as for a key's.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "user_id": user_id,
            "grace_days": grace_days,
            "wait": wait_text(wait),
        }
        return await self._transport.send(_operations.REMOVE_MEMBER.call(arguments, timeout=timeout))

    async def impact(
        self, customer_id: str, project_id: str, user_id: str, *, timeout: Optional[float] = None
    ) -> models.MemberImpactResponse:
        """Show what the removal of a member would do. Owners only."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "user_id": user_id}
        return await self._transport.send(_operations.GET_MEMBER_IMPACT.call(arguments, timeout=timeout))

    async def restore(
        self, customer_id: str, project_id: str, user_id: str, *, timeout: Optional[float] = None
    ) -> models.RestoreMemberResponse:
        """Undo the last removal of a user, if that is still possible."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "user_id": user_id}
        return await self._transport.send(_operations.RESTORE_MEMBER.call(arguments, timeout=timeout))


class AsyncLeaks(_Resource):
    """Keys that have leaked."""

    async def find(
        self, customer_id: str, project_id: str, values: Sequence[str], *, timeout: Optional[float] = None
    ) -> models.LeaksResponse:
        """Find the keys and API keys whose secrets are among at most 100 values. Owners only.

        A value may be a line of a file that contains a secret.
        """
        arguments = {"customer_id": customer_id, "project_id": project_id, "values": list(values), "revoke": False}
        return await self._transport.send(_operations.FIND_LEAKS.call(arguments, timeout=timeout))

    async def revoke(
        self,
        customer_id: str,
        project_id: str,
        values: Sequence[str],
        *,
        source: Optional[str] = None,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.LeaksResponse:
        """Revoke the keys and API keys that find would return.

        If a value is the secret of an inactive version, only that version is destroyed. The source says where the
        values were found, for the audit trail.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "values": list(values),
            "revoke": True,
            "source": source,
            "wait": wait_text(wait),
        }
        return await self._transport.send(_operations.FIND_LEAKS.call(arguments, timeout=timeout))


class AsyncProjects(_Resource):
    """The projects in which the caller may act."""

    async def list(
        self,
        *,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListProjectsResponse:
        """List the projects with the caller's role, by id: all of them, or the page that is asked for."""
        arguments = {"page_size": page_size, "page_token": page_token}
        return await self._list(_operations.LIST_PROJECTS, arguments, timeout, lambda page: page.projects)


class AsyncTokens(_Resource):
    """API keys of the service."""

    async def list(
        self,
        *,
        state: Optional[str] = None,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListTokensResponse:
        """List the caller's own API keys, newest first: all of them, or the page that is asked for.

        With the state "active", only those that are neither revoked nor expired.
        """
        arguments = {"state": state, "page_size": page_size, "page_token": page_token}
        return await self._list(_operations.LIST_TOKENS, arguments, timeout, lambda page: page.tokens)

    async def list_in_project(
        self,
        customer_id: str,
        project_id: str,
        *,
        state: Optional[str] = None,
        page_size: Optional[int] = None,
        page_token: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.ListTokensResponse:
        """List the API keys with which members can act in a project. Owners only."""
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "state": state,
            "page_size": page_size,
            "page_token": page_token,
        }
        return await self._list(_operations.LIST_PROJECT_TOKENS, arguments, timeout, lambda page: page.tokens)

    async def create(
        self,
        name: str,
        *,
        projects: Optional[Sequence[str]] = None,
        expires_at: Union[str, datetime, None, Unchanged] = UNCHANGED,
        timeout: Optional[float] = None,
    ) -> models.CreateTokenResponse:
        """Create an API key for the caller. Its text is api_key.get_secret_value(); it is not shown again.

        Repeating the call creates another API key.

        Without projects it can act in all of the caller's. It expires after 90 days, or at expires_at, where None means
        never.
        """
        arguments = {
            "name": name,
            "projects": None if projects is None else list(projects),
            "expires_at": changed_time("expires_at", expires_at),
        }
        return await self._transport.send(_operations.CREATE_TOKEN.call(arguments, timeout=timeout))

    async def revoke(
        self,
        id: str,
        *,
        cascade: bool = False,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RevokeTokenResponse:
        """Revoke an API key of the caller, even the one in use; with cascade also those that were created with it.

        There is one receipt for all of them, for which wait waits as for a key's.
        """
        arguments = {"token_id": id, "cascade": "true" if cascade else None, "wait": wait_text(wait)}
        return await self._transport.send(_operations.REVOKE_TOKEN.call(arguments, timeout=timeout))

    async def revoke_in_project(
        self,
        customer_id: str,
        project_id: str,
        id: str,
        *,
        cascade: bool = False,
        wait: Union[str, float, timedelta, None] = None,
        timeout: Optional[float] = None,
    ) -> models.RevokeTokenResponse:
        """Bar a member's API key from a project. Owners only."""
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "token_id": id,
            "cascade": "true" if cascade else None,
            "wait": wait_text(wait),
        }
        return await self._transport.send(_operations.REVOKE_PROJECT_TOKEN.call(arguments, timeout=timeout))


class AsyncProviders(_Resource):
    """The catalogue of providers, and servers of a project's own."""

    async def list(self, *, timeout: Optional[float] = None) -> models.ListProvidersResponse:
        """List the providers whose keys can be registered."""
        return await self._transport.send(_operations.LIST_PROVIDERS.call({}, timeout=timeout))

    async def list_custom(
        self, customer_id: str, project_id: str, *, timeout: Optional[float] = None
    ) -> models.ListCustomProvidersResponse:
        """List the project's own servers, which are its providers beside those of the catalogue."""
        arguments = {"customer_id": customer_id, "project_id": project_id}
        return await self._transport.send(_operations.LIST_CUSTOM_PROVIDERS.call(arguments, timeout=timeout))

    async def add_custom(
        self,
        customer_id: str,
        project_id: str,
        slug: str,
        base_url: str,
        *,
        display_name: Optional[str] = None,
        dialect: Optional[str] = None,
        auth_style: Optional[str] = None,
        header: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> models.CustomProviderResponse:
        """Add a server of your own to the project's providers. It can't be changed.

        It speaks OpenAI's API unless dialect says otherwise. It gets its key as a bearer token unless auth_style is
        "none", or "header" with the name of a header.
        """
        arguments = {
            "customer_id": customer_id,
            "project_id": project_id,
            "slug": slug,
            "base_url": base_url,
            "display_name": display_name,
            "dialect": dialect,
            "auth_style": auth_style,
            "header": header,
        }
        return await self._transport.send(_operations.ADD_CUSTOM_PROVIDER.call(arguments, timeout=timeout))

    async def remove_custom(
        self, customer_id: str, project_id: str, slug: str, *, timeout: Optional[float] = None
    ) -> models.CustomProviderResponse:
        """Remove a server that the project's owners added. Revoke its keys first, or the call fails."""
        arguments = {"customer_id": customer_id, "project_id": project_id, "slug": slug}
        return await self._transport.send(_operations.REMOVE_CUSTOM_PROVIDER.call(arguments, timeout=timeout))
