// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title UpgradedToken
/// @notice What USDC could become if its proxy were upgraded against us: a token that calls
/// somebody during a transfer, or refuses one with more revert data than anybody wants to copy.
contract UpgradedToken {
    event Transfer(address indexed from, address indexed to, uint256 value);

    mapping(address account => uint256) public balanceOf;

    /// @notice Called at each transfer, once it is armed.
    address public target;
    bytes public callData;
    /// @notice Whether the call back in succeeded, and what it answered.
    bool public succeeded;
    bytes public answer;
    uint256 public calls;

    /// @notice Transfers to this account revert with `bombSize` bytes.
    address public refused;
    uint256 public bombSize;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
        emit Transfer(address(0), to, amount);
    }

    function arm(address target_, bytes calldata callData_) external {
        (target, callData, calls) = (target_, callData_, 0);
    }

    function refuse(address account, uint256 bombSize_) external {
        (refused, bombSize) = (account, bombSize_);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        if (to == refused) {
            uint256 size = bombSize;
            assembly {
                revert(0, size)
            }
        }
        balanceOf[msg.sender] -= value;
        balanceOf[to] += value;
        emit Transfer(msg.sender, to, value);
        if (target != address(0)) {
            calls++;
            (succeeded, answer) = target.call(callData);
        }
        return true;
    }
}
