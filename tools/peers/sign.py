"""Signs requests with botocore, AWS's own library, for the tests of our signatures. Takes on standard input a request as a JSON object: access_key_id,
secret_access_key, session_token, region, service, at, method, url, headers, and seconds, if it signs a URL. Prints that URL, or else the
header Authorization."""

import datetime
import json
import sys

from botocore import auth, awsrequest, credentials

asked = json.load(sys.stdin)
auth.get_current_datetime = lambda: datetime.datetime.fromisoformat(asked["at"])
who = credentials.Credentials(asked["access_key_id"], asked["secret_access_key"], asked["session_token"] or None)
request = awsrequest.AWSRequest(asked["method"], asked["url"], headers=asked["headers"])
if asked["seconds"]:
    auth.SigV4QueryAuth(who, asked["service"], asked["region"], expires=asked["seconds"]).add_auth(request)
    print(request.url)
else:
    auth.SigV4Auth(who, asked["service"], asked["region"]).add_auth(request)
    print(request.headers["Authorization"])
