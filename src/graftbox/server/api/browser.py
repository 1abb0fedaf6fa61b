"""The browser over HTTP: ``/v1/browser``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from graftbox.errors import GraftboxError, NotFoundError, UsageError
from graftbox.server.browser import clients, pages
from graftbox.server.browser.browser import Browser
from graftbox.server.browser.cdp import Params, ProtocolError, Router
from graftbox.server.browser.errors import PageTimeoutError
from graftbox.server.browser.pages import Visit
from graftbox.server.channel import Channel
from graftbox.server.request import Request, Response, answer
from graftbox.server.shapes.browser import GOTO, NEW, PDF, READ, SCREENSHOT, SCRIPT


async def show(request: Request) -> Response:
    request.arguments({})
    return answer(_shown(request.sandbox.browser))


async def stop(request: Request) -> Response:
    await request.sandbox.browser.stop()
    return Response(204)


async def restart(request: Request) -> Response:
    browser = request.sandbox.browser
    await browser.restart()
    return answer(_shown(browser))


async def version(request: Request) -> Response:
    """As Chromium's own ``/json/version``."""
    request.arguments({})
    browser = request.sandbox.browser
    await browser.router()
    told = browser.version
    host = (request.header(b"host") or b"localhost").decode("latin-1")
    secure = request.header(b"x-forwarded-proto") == b"https"
    return answer(
        {
            "Browser": told["product"],
            "Protocol-Version": told["protocolVersion"],
            "User-Agent": told["userAgent"],
            "V8-Version": told["jsVersion"],
            "webSocketDebuggerUrl": f"{'wss' if secure else 'ws'}://{host}/v1/browser/cdp",
        }
    )


async def version_too(request: Request) -> Response:
    """With the slash behind that Playwright asks with."""
    return await version(request)


async def cdp(channel: Channel) -> None:
    """A client of the protocol."""
    router = await channel.sandbox.browser.router()
    await channel.accept()
    await clients.serve(channel, router)


async def create(request: Request) -> Response:
    given = await request.json(NEW)
    router = await request.sandbox.browser.router()
    page = await pages.create(router)
    if "url" in given:
        try:
            async with _visit(request, page, given["timeout"]) as here:
                await pages.goto(here, given["url"], given["wait_until"])
        except BaseException:
            await asyncio.shield(_drop(router, page))
            raise
    response = answer(await _page(router, page), 201)
    response.headers = ((b"location", f"/v1/browser/pages/{page}".encode()),)
    return response


async def show_page(request: Request) -> Response:
    request.arguments({})
    return answer(await _page(_router(request), request.parameters["page"]))


async def close(request: Request) -> Response:
    await pages.close(_router(request), request.parameters["page"])
    return Response(204)


async def goto(request: Request) -> Response:
    given = await request.json(GOTO)
    page = request.parameters["page"]
    async with _visit(request, page, given["timeout"], anew=True) as here:
        await pages.goto(here, given["url"], given["wait_until"])
    return answer(await _page(_router(request), page))


async def screenshot(request: Request) -> Response:
    given = request.arguments(SCREENSHOT)
    kind, quality = given["format"], given.get("quality")
    if quality is not None and kind == "png":
        raise UsageError("A png has no quality; leave it out, or ask for format=jpeg.")
    async with _visit(request, request.parameters["page"], given["timeout"]) as here:
        data = await pages.screenshot(here, kind, quality, full_page=given["full_page"])
    return Response(200, data, f"image/{kind}")


async def pdf(request: Request) -> Response:
    given = request.arguments(PDF)
    options: Params = {
        "landscape": given["landscape"],
        "printBackground": given["background"],
        "scale": given["scale"],
        "paperWidth": given["width"],
        "paperHeight": given["height"],
        "pageRanges": given["pages"],
    }
    async with _visit(request, request.parameters["page"], given["timeout"]) as here:
        try:
            data = await pages.pdf(here, options)
        except ProtocolError as error:
            raise UsageError(f"The page can't be printed so. {error}") from error
    return Response(200, data, "application/pdf")


async def text(request: Request) -> Response:
    given = request.arguments(READ)
    async with _visit(request, request.parameters["page"], given["timeout"]) as here:
        found = await pages.read(here)
    content = found["html" if given["format"] == "html" else "text"]
    if given["format"] == "markdown":
        from graftbox.server.browser.markdown import markdown

        content = await asyncio.to_thread(markdown, found["html"])
    return answer(
        {
            "url": found["url"],
            "title": found["title"],
            "content": content,
            "truncated": found["truncated"],
        }
    )


async def evaluate(request: Request) -> Response:
    given = await request.json(SCRIPT)
    async with _visit(request, request.parameters["page"], given["timeout"]) as here:
        return answer(await pages.evaluate(here, given["expression"]))


@contextlib.asynccontextmanager
async def _visit(request: Request, page: str, timeout: float, *, anew: bool = False) -> AsyncIterator[Visit]:
    """A session with the page; whether the browser itself hangs is looked into when the page does."""
    browser = request.sandbox.browser
    try:
        async with pages.visit(_router(request), page, timeout, anew=anew) as here:
            yield here
    except PageTimeoutError:
        await browser.check()
        raise


async def _drop(router: Router, page: str) -> None:
    with contextlib.suppress(GraftboxError):
        await pages.close(router, page)


def _router(request: Request) -> Router:
    """Raises `NotFoundError` while there is no browser, as then there are no pages."""
    router = request.sandbox.browser.current
    if router is None:
        reason = request.sandbox.browser.last_end or "It has not been started."
        raise NotFoundError(f"The browser has no pages: {reason} Open one with POST /v1/browser/pages.")
    return router


async def _page(router: Router, page: str) -> dict[str, Any]:
    """The page as it is now: what its title is, is told a moment later than that it was loaded."""
    if page in router.pages:
        try:
            found = await router.call("Target.getTargetInfo", {"targetId": page})
            return _page_shown(found["targetInfo"])
        except ProtocolError:
            pass
    raise NotFoundError(f"There is no page {page}; GET /v1/browser lists those that are open.")


def _page_shown(target: Params) -> dict[str, Any]:
    return {
        "id": target["targetId"],
        "url": target["url"],
        "title": target["title"],
        "context": target.get("browserContextId"),
    }


def _shown(browser: Browser) -> dict[str, Any]:
    router = browser.current
    process = browser.process
    return {
        "state": browser.state,
        "reason": browser.available() or browser.last_end,
        "product": browser.version.get("product"),
        "pid": process.pid if process else None,
        "starts": browser.generation,
        "started": browser.started or None,
        "sandboxed": browser.sandboxed,
        "clients": len(router.clients) if router else 0,
        "pages": [_page_shown(page) for page in router.pages.values()] if router else [],
    }
