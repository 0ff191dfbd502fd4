// Reads deliveries as lines of JSON, and writes for each whether the provider's client accepts it.

import { createInterface } from "node:readline";
import { WebhookVerificationService, getPlatformAlgorithmConfig } from "@hookflo/tern";
import { validateWebhook } from "replicate";

const judges = {
  replicate: ({ headers, body, secret }) => validateWebhook({ headers: new Headers(headers), body }, secret),
  fal: async ({ headers, body, jwks }) => {
    const { signatureConfig } = getPlatformAlgorithmConfig("falai");
    signatureConfig.customConfig = { ...signatureConfig.customConfig, jwksUrl: jwks };
    const request = new Request("https://receiver.example.com/", { method: "POST", headers, body });
    const verdict = await WebhookVerificationService.verify(request, { platform: "falai", secret: "", signatureConfig });
    return verdict.isValid;
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const delivery = JSON.parse(line);
  console.log(JSON.stringify(await judges[delivery.provider](delivery)));
}
